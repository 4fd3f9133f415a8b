use super::{
    BATCH, BatchHead, DEVICE, Device, END, End, EndedBy, HEADER, Header, MAGIC, MAX_FRAME_BYTES,
    VERSION,
};
use std::io::{self, Write};

/// A place between two frames, at which a file could end.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    bytes: u64,
    counts: End,
}

impl Mark {
    /// From the beginning of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Writes a capture, frame by frame, and counts what it writes.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    bytes: u64,
    frame: Vec<u8>,
    counts: End,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[0; 2])?;
        let counts = End {
            to_ns: header.from_ns,
            devices: 0,
            batches: 0,
            readings: 0,
            left_out: 0,
            skipped: 0,
            missing_records: 0,
            ended_by: EndedBy::CaughtUp,
        };
        let mut writer = Self { out, bytes: 12, frame: Vec::new(), counts };
        writer.frame.extend(serde_json::to_vec(header)?);
        writer.put(HEADER)?;
        Ok(writer)
    }

    /// Goes on at a mark: `out` writes there, and the file holds nothing after it.
    pub fn resume(out: W, mark: Mark) -> Self {
        Self { out, bytes: mark.bytes, frame: Vec::new(), counts: mark.counts }
    }

    /// After what was written so far.
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes, counts: self.counts }
    }

    /// A device; its number is given here.
    ///
    /// # Errors
    /// The file cannot be written, or a name is longer than 255 bytes.
    pub fn device(&mut self, name: &str, realm: &str) -> io::Result<Device> {
        let number = self.counts.devices;
        self.frame.extend(number.to_le_bytes());
        self.text(name)?;
        self.text(realm)?;
        self.put(DEVICE)?;
        self.counts.devices += 1;
        Ok(Device { number, name: name.to_owned(), realm: realm.to_owned() })
    }

    /// A batch with its body.
    ///
    /// # Errors
    /// The file cannot be written, or the batch is larger than a frame may be.
    pub fn batch(&mut self, head: &BatchHead<'_>, body: &[u8]) -> io::Result<()> {
        self.frame.extend(head.device.to_le_bytes());
        self.frame.extend(head.arrival_us.to_le_bytes());
        self.frame.extend(head.stream.to_le_bytes());
        for number in [head.skipped, head.readings, head.left_out] {
            self.frame.extend(number.to_le_bytes());
        }
        self.text(head.measurement)?;
        self.frame.extend(body);
        self.put(BATCH)?;
        self.counts.batches += 1;
        self.counts.readings += u64::from(head.readings);
        self.counts.left_out += u64::from(head.left_out);
        self.counts.skipped += u64::from(head.skipped);
        Ok(())
    }

    /// So many records could not be read.
    pub fn missing(&mut self, records: u64) {
        self.counts.missing_records += records;
    }

    /// Hands on what a buffer below holds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// What was written so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was counted so far.
    pub fn counts(&self) -> &End {
        &self.counts
    }

    /// Writes the end.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self, to_ns: i64, ended_by: EndedBy) -> io::Result<(W, End)> {
        self.counts.to_ns = to_ns;
        self.counts.ended_by = ended_by;
        self.frame.extend(serde_json::to_vec(&self.counts)?);
        self.put(END)?;
        self.out.flush()?;
        Ok((self.out, self.counts))
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        let length = u8::try_from(text.len()).map_err(|_| too_long())?;
        self.frame.push(length);
        self.frame.extend(text.as_bytes());
        Ok(())
    }

    /// Writes the frame whose body was gathered.
    fn put(&mut self, kind: u8) -> io::Result<()> {
        let length = u32::try_from(self.frame.len()).unwrap_or(u32::MAX);
        if length > MAX_FRAME_BYTES {
            self.frame.clear();
            return Err(too_long());
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), &self.frame);
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&crc.to_le_bytes())?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&self.frame)?;
        self.bytes += (super::FRAME_HEAD_BYTES + self.frame.len()) as u64;
        self.frame.clear();
        Ok(())
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "longer than the format of captures allows")
}
