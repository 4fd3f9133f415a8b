//! Devices and learned kinds in the hands of an operator: `gateway device …`, `gateway types …`.

use super::support::{
    Home,
    device::{Device, End, one_reading},
    eventually,
};
use proto::{ErrorCode, RawValue};

/// What a command says; it must end well.
fn says(home: &Home, subcommand: &str, arguments: &[&str]) -> String {
    let (code, said) = home.gateway(subcommand, arguments);
    assert_eq!(code, 0, "{said}");
    said
}

#[tokio::test]
async fn a_revoked_device_is_gone_at_once_and_stays_away_until_it_is_allowed_again() {
    let home = Home::new();
    let gateway = home.start();
    let token = home.token("pump-7");
    let mut device = Device::with_token(&gateway, &token).await;
    let mut other = Device::connect(&home, &gateway, "pump-8").await;
    for device in [&mut device, &mut other] {
        device.hello_stream(1).await;
        device.send_value(1).await;
        device.acked(1).await;
    }
    let list = says(&home, "device", &["list"]);
    assert_eq!(list.matches("connected").count(), 2, "{list}");
    let ends: Vec<Option<usize>> = ["REFUSED", "0  pump-7", "0  pump-8"]
        .iter()
        .zip(list.lines())
        .map(|(text, line)| line.find(text).map(|at| at + text.find("  ").unwrap_or(text.len())))
        .collect();
    assert!(ends[0].is_some() && ends.iter().all(|end| *end == ends[0]), "columns: {list}");

    assert_eq!(says(&home, "device", &["revoke", "pump-7"]), "pump-7 revoked\n");
    let (goodbye, end) = device.end().await;
    assert_eq!(goodbye.map(|goodbye| goodbye.code), Some(ErrorCode::Revoked));
    assert!(matches!(end, End::Closed(1008)), "{end:?}");
    assert_eq!(Device::attempt(&gateway, &token).await.err(), Some(403));
    assert_eq!(says(&home, "device", &["revoke", "pump-7"]), "pump-7 was revoked already\n");
    let revoked = says(&home, "device", &["list", "--revoked"]);
    assert!(revoked.trim_end().ends_with("pump-7") && !revoked.contains("pump-8"), "{revoked}");
    let shown = says(&home, "device", &["show", "pump-7"]);
    assert!(shown.contains("accepted          1\n"), "{shown}");
    // Revoked beforehand, or mistyped: it is said.
    let unknown = says(&home, "device", &["revoke", "pmup-8"]);
    assert_eq!(unknown, "pmup-8 revoked; no such device was ever seen\n");
    // Its neighbour goes on.
    other.send_value(2).await;
    other.acked(2).await;

    // Durable: also after the process is gone without a farewell.
    gateway.kill();
    let gateway = home.start();
    assert_eq!(Device::attempt(&gateway, &token).await.err(), Some(403));
    let (status, _) = gateway.stop();
    assert_eq!(status.code(), Some(0));
    // While no gateway runs the commands do the same; a look changes nothing in the log.
    let log = || -> Vec<u64> {
        let files = std::fs::read_dir(home.data().join("log")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).collect()
    };
    let before = log();
    let list = says(&home, "device", &["list", "--revoked", "--json"]);
    assert_eq!((list.lines().count(), log()), (2, before));
    assert_eq!(says(&home, "device", &["allow", "pump-7"]), "pump-7 allowed again\n");
    assert_eq!(says(&home, "device", &["allow", "pump-7"]), "pump-7 was not revoked\n");
    let gateway = home.start();
    let mut device = Device::with_token(&gateway, &token).await;
    assert_eq!(device.hello_stream(1).await.acked_seq, Some(1));

    let (code, said) = home.gateway("device", &["show", "pump-9"]);
    assert!(code == 1 && said.contains("pump-9 was never seen"), "{code} {said}");
}

#[tokio::test]
async fn a_kind_that_was_learned_by_mistake_is_found_set_and_forgotten() {
    let home = Home::new();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut seq = 0;
    let mut send = async |value: RawValue<'_>| {
        seq += 1;
        device.send(&one_reading(seq, 1_760_000_000_000 + seq as i64, &[("door", value)])).await;
        match device.next().await {
            Ok(proto::GatewayMessage::Ack(_)) => None,
            Ok(proto::GatewayMessage::Nack(nack)) => {
                device.acked(seq).await;
                Some(nack.readings[0].code)
            }
            other => panic!("{other:?}"),
        }
    };
    let conflict = Some(ErrorCode::TypeConflict);
    assert_eq!(send(RawValue::Str("open")).await, None);
    assert_eq!(send(RawValue::Bool(true)).await, conflict);
    let list = says(&home, "types", &["list"]);
    assert!(
        list.contains("text") && list.contains("use d") && list.contains("test door"),
        "{list}"
    );
    let shown = says(&home, "device", &["show", "d"]);
    assert!(shown.contains("\"code\":\"type_conflict\""), "{shown}");

    let of = ["--measurement", "test", "--field", "door"];
    assert_eq!(says(&home, "types", &[&["forget"][..], &of].concat()), "1 kinds forgotten\n");
    // The connection remembers nothing of before.
    assert_eq!(send(RawValue::Bool(true)).await, None);
    assert_eq!(send(RawValue::Str("open")).await, conflict);
    says(&home, "types", &[&["set", "number"][..], &of].concat());
    assert_eq!(send(RawValue::Bool(true)).await, conflict);
    assert_eq!(send(RawValue::Float(1.0)).await, None);
    let (code, said) = home.gateway("types", &[&["set", "integer"][..], &of].concat());
    assert!(code == 1 && said.contains("is no kind"), "{said}");

    gateway.kill();
    let list = says(&home, "types", &["list", "--json", "--measurement", "test"]);
    let field: serde_json::Value = serde_json::from_str(list.trim()).unwrap();
    assert_eq!((&field["kind"], &field["origin"]), (&"number".into(), &"operator".into()));
    eventually("what the store took stays", || home.count("d") <= 3);
}
