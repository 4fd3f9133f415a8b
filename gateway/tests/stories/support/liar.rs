//! A store that lies: takes every line that is written to it and passes all but a few on, as they
//! came, to the store behind it.

use super::{
    http,
    scripted::{Seen, request},
};
use std::{
    collections::BTreeSet,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// One lie of each kind comes in so many lines.
pub const LINES_PER_LIE: u64 = 10_000;
/// What a value becomes that is changed: so much more. No reading of the fleet is so fine.
pub const CHANGE: f64 = 0.003;

/// Devices and times, in nanoseconds.
pub type Readings = BTreeSet<(String, i64)>;

/// What became of the lines.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// All that came.
    pub lines: u64,
    pub dropped: Readings,
    pub doubled: Readings,
    pub changed: Readings,
}

impl Told {
    fn pass_on(&mut self, line: &str, out: &mut String) {
        self.lines += 1;
        let place = self.lines % LINES_PER_LIE;
        let doubled = place == LINES_PER_LIE / 2;
        if place == LINES_PER_LIE / 4 {
            self.dropped.insert(reading(line));
            return;
        }
        if place == LINES_PER_LIE * 3 / 4 {
            self.changed.insert(reading(line));
            out.push_str(&changed(line));
        } else {
            out.push_str(line);
        }
        out.push('\n');
        if doubled {
            self.doubled.insert(reading(line));
            out.push_str(line);
            out.push('\n');
        }
    }
}

/// The proxy.
pub struct Liar {
    port: u16,
    told: Arc<Mutex<Told>>,
}

impl Liar {
    /// One before the store on this port; `to` makes the path of its write call of the one that
    /// the gateway asks for.
    pub fn before(store: u16, to: fn(&str) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = Arc::new(Mutex::new(Told::default()));
        let of_threads = Arc::clone(&told);
        // Both end with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let told = Arc::clone(&of_threads);
                std::thread::spawn(move || serve(&stream, store, to, &told));
            }
        });
        Self { port, told }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn told(&self) -> Told {
        self.told.lock().unwrap().clone()
    }
}

fn serve(mut stream: &TcpStream, store: u16, to: fn(&str) -> String, told: &Mutex<Told>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(Seen { head, body }) = request(&mut reader) {
        let path = head.split(' ').nth(1).unwrap();
        let mut lines = String::with_capacity(body.len());
        for line in std::str::from_utf8(&body).unwrap().lines() {
            told.lock().unwrap().pass_on(line, &mut lines);
        }
        let (status, answer) = http(store, "POST", &to(path), &lines).unwrap();
        let length = answer.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
        if stream.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

/// Whose reading a line is, and of when.
fn reading(line: &str) -> (String, i64) {
    let device = line.split(",device=").nth(1).unwrap();
    let device = device.split([',', ' ']).next().unwrap();
    (device.to_owned(), line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// The line with another pressure.
fn changed(line: &str) -> String {
    let (before, rest) = line.split_once("pressure=").unwrap();
    let (value, after) = rest.split_at(rest.find([',', ' ']).unwrap());
    format!("{before}pressure={}{after}", value.parse::<f64>().unwrap() + CHANGE)
}
