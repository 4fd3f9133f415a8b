//! Disks of our own: an ext4 on a loop device whose power can be cut, and a small tmpfs.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Runs a command of the system; its absence or failure says what is needed.
pub fn system(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; run ./scripts/test-tools.sh"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}\nthese trials need root and loop devices (as root: \
         mknod /dev/loop0 b 7 0)"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Unmounts when dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// An ext4 file system on a loop device.
pub struct LoopDisk {
    image: tempfile::NamedTempFile,
    at: PathBuf,
    mounted: Option<Mounted>,
}

impl LoopDisk {
    /// Made anew, and mounted at an empty directory.
    pub fn mount_at(at: &Path, megabytes: u64) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(megabytes << 20).unwrap();
        let path = image.path().to_str().unwrap();
        system("/usr/sbin/mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,nodiscard", path]);
        let mut disk = Self { image, at: at.to_owned(), mounted: None };
        disk.mount();
        disk
    }

    pub fn mount(&mut self) {
        let (image, at) = (self.image.path().to_str().unwrap(), self.at.to_str().unwrap());
        system("mount", &["-o", "loop", image, at]);
        self.mounted = Some(Mounted(self.at.clone()));
    }

    pub fn unmount(&mut self) {
        system("umount", &[self.at.to_str().unwrap()]);
        std::mem::forget(self.mounted.take());
    }

    /// Gets ready to cut the power, so that it takes no time when it is wanted.
    pub fn switch(&self) -> Switch {
        // FS_IOC_SHUTDOWN with FS_SHUTDOWN_FLAGS_NOLOGFLUSH: what was not synced is gone.
        let program = "import fcntl,os,struct,sys\n\
                       fd=os.open(sys.argv[1],os.O_RDONLY|os.O_DIRECTORY)\n\
                       print('ready',flush=True)\n\
                       sys.stdin.readline()\n\
                       fcntl.ioctl(fd,0x8004587d,struct.pack('I',2))\n";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .arg(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3; run ./scripts/test-tools.sh");
        let mut ready = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Switch(child)
    }
}

/// Cuts the power of a [`LoopDisk`].
pub struct Switch(Child);

impl Switch {
    pub fn cut(mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        let status = self.0.wait().unwrap();
        assert!(status.success(), "the power could not be cut (FS_IOC_SHUTDOWN on ext4, as root)");
    }
}

/// A file system in memory of a given size.
pub struct SmallDisk(Mounted);

impl SmallDisk {
    pub fn mount_at(at: &Path, megabytes: u64) -> Self {
        let size = format!("size={megabytes}m");
        system("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", at.to_str().unwrap()]);
        Self(Mounted(at.to_owned()))
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all that is free, to the last byte.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.0.join("ballast");
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while file.write(&vec![7; size]).is_ok_and(|n| n > 0) {}
        }
        path
    }
}
