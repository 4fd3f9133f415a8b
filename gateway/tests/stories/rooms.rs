//! The rooms of the gateway and who may know whom. `ARCHITECTURE.md` draws the same picture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// These know everyone; nobody knows them.
const WIRING: &[&str] = &["lib", "main", "cli", "known", "sinks", "wire"];

/// Each room with the rooms it may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("metrics", &["record"]),
    ("shutdown", &[]),
    ("log", &["record", "metrics"]),
    ("state", &["record", "metrics"]),
    ("ingest", &["log", "state", "record", "metrics"]),
    ("client_tls", &[]),
    ("mqtt", &[]),
    ("mqtt_source", &["mqtt", "session", "ingest", "auth", "state", "record", "metrics"]),
    ("sink", &["record", "metrics", "mqtt", "client_tls"]),
    ("forward", &["log", "sink", "record", "metrics"]),
    ("quarantine", &["forward", "record", "metrics"]),
    ("session", &["ingest", "record"]),
    ("auth", &["record", "metrics"]),
    ("server", &["session", "ingest", "auth", "state", "record", "metrics"]),
    ("data_dir", &[]),
    ("config", &["data_dir"]),
    ("admin", &["metrics", "config"]),
    ("logging", &["config"]),
    ("inspect", &["log", "record"]),
    ("capture", &["log", "record"]),
    ("banner", &["config", "data_dir"]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Names that stand after `crate::` outside comments, both `crate::x` and `crate::{x, y::z}`.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && depth == 0 && c.is_alphabetic() => {
                    found.insert(word(&list[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn every_room_imports_only_what_it_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let may: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        let room = first.trim_end_matches(".rs").to_owned();
        if WIRING.contains(&room.as_str()) {
            continue;
        }
        let Some(allowed) = may.get(room.as_str()) else {
            wrong.push(format!("{room} is not in the table"));
            continue;
        };
        seen.insert(room.clone());
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if import != room && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{} imports {import}", inside.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let expected: BTreeSet<String> = MAY_IMPORT.iter().map(|(room, _)| (*room).into()).collect();
    assert_eq!(seen, expected, "the table names rooms that are gone");
}

#[test]
fn the_table_has_no_circle() {
    let may: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    fn visit<'a>(room: &'a str, may: &BTreeMap<&'a str, &'a [&'a str]>, path: &mut Vec<&'a str>) {
        assert!(!path.contains(&room), "{path:?} → {room}");
        path.push(room);
        for next in may[room] {
            visit(next, may, path);
        }
        path.pop();
    }
    for room in may.keys() {
        visit(room, &may, &mut Vec::new());
    }
}

#[test]
fn the_reader_of_imports_sees_all_forms() {
    let source = "use crate::{a::{b, c}, d, e::f};\n// crate::no\nlet x = crate::g::h();\n";
    assert_eq!(imports(source), ["a", "d", "e", "g"].map(String::from).into());
}
