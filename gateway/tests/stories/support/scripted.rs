//! A store that does what the test says: each answer, and each way of not answering.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// What the store does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Stores all lines and says so.
    Store,
    /// Stores all lines and says nothing: the connection ends.
    StoreAndDrop,
    /// Stores these lines and answers this.
    Partial(Vec<String>, u16, String),
    /// Stores nothing and answers this, with further header lines.
    Refuse(u16, &'static str, String),
    /// Reads the request and never answers.
    Hang,
    /// Ends the connection in the middle of the answer.
    CutOff,
    /// Resets the connection.
    Reset,
    /// Stores, and says so after this time.
    Slow(Duration),
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The request line and the headers.
    pub head: String,
    /// The body as it came.
    pub body: Vec<u8>,
}

type Rule = Box<dyn FnMut(&Seen, &str) -> Answer + Send>;

struct Shared {
    rule: Rule,
    stored: BTreeSet<String>,
    seen: Vec<Seen>,
}

/// The store.
pub struct Scripted {
    port: u16,
    shared: Arc<Mutex<Shared>>,
}

impl Scripted {
    /// A store that stores everything.
    pub fn start() -> Self {
        Self::start_on(0)
    }

    /// …on a known port.
    pub fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Rule = Box::new(|_, _| Answer::Store);
        let shared = Shared { rule, stored: BTreeSet::new(), seen: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let of_threads = Arc::clone(&shared);
        // Both end with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&of_threads);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it does what `rule` says of the lines of a request.
    pub fn rule(&self, mut rule: impl FnMut(&str) -> Answer + Send + 'static) {
        self.rule_of(move |_, lines| rule(lines));
    }

    /// …of a request and its lines.
    pub fn rule_of(&self, rule: impl FnMut(&Seen, &str) -> Answer + Send + 'static) {
        self.shared.lock().unwrap().rule = Box::new(rule);
    }

    /// The next `times` requests get this answer; then everything is stored.
    pub fn next(&self, times: usize, answer: Answer) {
        let mut left = times;
        self.rule(move |_| {
            if left == 0 {
                return Answer::Store;
            }
            left -= 1;
            answer.clone()
        });
    }

    /// The lines that it holds.
    pub fn stored(&self) -> BTreeSet<String> {
        self.shared.lock().unwrap().stored.clone()
    }

    /// The requests that came.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().unwrap().seen.clone()
    }
}

fn serve(stream: TcpStream, shared: &Mutex<Shared>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(seen) = request(&mut reader) {
        let lines: Vec<String> =
            String::from_utf8_lossy(&seen.body).lines().map(str::to_owned).collect();
        let answer = {
            let mut shared = shared.lock().unwrap();
            shared.seen.push(seen.clone());
            let answer = (shared.rule)(&seen, &lines.join("\n"));
            match &answer {
                Answer::Store | Answer::StoreAndDrop | Answer::Slow(_) => {
                    shared.stored.extend(lines);
                }
                Answer::Partial(good, ..) => shared.stored.extend(good.iter().cloned()),
                _ => {}
            }
            answer
        };
        if !carry_out(&stream, answer) {
            return;
        }
    }
}

/// False if the connection has ended.
fn carry_out(mut stream: &TcpStream, answer: Answer) -> bool {
    let mut say = |status: u16, headers: &str, body: &str| {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all((head + body).as_bytes()).is_ok()
    };
    match answer {
        Answer::Store => say(204, "", ""),
        Answer::Slow(time) => {
            std::thread::sleep(time);
            say(204, "", "")
        }
        Answer::Partial(_, status, body) => say(status, "", &body),
        Answer::Refuse(status, headers, body) => say(status, headers, &body),
        Answer::Hang => {
            std::thread::sleep(super::PATIENCE);
            false
        }
        Answer::CutOff => {
            let _ = stream.write_all(b"HTTP/1.1 204 No Con");
            false
        }
        Answer::Reset => {
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
            false
        }
        Answer::StoreAndDrop => false,
    }
}

/// The next request on a connection.
pub fn request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { head, body })
}
