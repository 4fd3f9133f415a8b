//! The decoder against a reference that works on trees, not on bytes; random batches, right and
//! wrong in every place, in every spelling that MessagePack has for them.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/tree.rs"]
mod tree;

use common::{batch, refused, value};
use proptest::{collection::vec, prelude::*, sample::select};
use proto::Limits;
use tree::{Tree, Writer};

/// Small, so that random batches go beyond them.
const LIMITS: Limits =
    Limits { message_bytes: u32::MAX, readings: 6, fields: 4, tags: 2, depth: 8 };

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => select(vec!["t", "humidity", "site", "°C", "", "fields", "time"])
            .prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
        1 => (30..40_usize).prop_map(|length| vec![b'x'; length]),
    ]
}

fn scalar() -> impl Strategy<Value = Tree> {
    prop_oneof![
        any::<bool>().prop_map(Tree::Bool),
        (any::<i64>(), 0..64_u32).prop_map(|(n, bits)| Tree::Int(n >> bits)),
        (1_u64 << 63..).prop_map(Tree::UInt),
        any::<f32>().prop_map(Tree::F32),
        any::<f64>().prop_map(Tree::F64),
        text().prop_map(Tree::Str),
    ]
}

fn ext() -> impl Strategy<Value = Tree> {
    let length = select(vec![0_usize, 1, 2, 4, 8, 12, 16, 17]);
    (select(vec![-1_i8, -1, -2, 0, 5]), length, any::<u64>(), any::<bool>()).prop_map(
        |(kind, length, n, small)| {
            let mut bytes: Vec<u8> = n.to_be_bytes().into_iter().cycle().take(length).collect();
            if small && let Some(first) = bytes.first_mut() {
                *first &= 0x1f;
            }
            Tree::Ext(kind, bytes)
        },
    )
}

fn leaf() -> impl Strategy<Value = Tree> {
    prop_oneof![scalar(), Just(Tree::Nil), ext(), vec(any::<u8>(), 0..4).prop_map(Tree::Bin)]
}

/// Anything, up to three containers deep.
fn anything() -> impl Strategy<Value = Tree> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Tree::Array),
            vec((text(), inner), 0..4).prop_map(Tree::Map),
        ]
    })
}

/// Mostly what belongs there, now and then anything.
fn mostly(right: impl Strategy<Value = Tree> + 'static) -> BoxedStrategy<Tree> {
    prop_oneof![15 => right, 1 => anything()].boxed()
}

fn time() -> BoxedStrategy<Tree> {
    mostly(prop_oneof![any::<i64>().prop_map(Tree::Int), ext(), Just(Tree::Nil)])
}

fn tags() -> BoxedStrategy<Tree> {
    mostly(vec((text(), mostly(text().prop_map(Tree::Str))), 0..4).prop_map(Tree::Map))
}

fn measurement() -> BoxedStrategy<Tree> {
    mostly(text().prop_map(Tree::Str))
}

type Pairs = Vec<(Vec<u8>, Tree)>;

/// A map of these keys, each there or not, now and then twice, in any order, with others between.
fn map(keys: Vec<(&'static str, u32, BoxedStrategy<Tree>)>) -> impl Strategy<Value = Tree> {
    let mut pairs: Vec<BoxedStrategy<Pairs>> = Vec::new();
    for (key, often, tree) in keys {
        let pair = move |tree| (key.as_bytes().to_vec(), tree);
        let times = prop_oneof![often => Just(1_usize), 8 => Just(0), 1 => Just(2)];
        pairs.push(
            times.prop_flat_map(move |times| vec(tree.clone().prop_map(pair), times)).boxed(),
        );
    }
    pairs.push(prop_oneof![4 => Just(Vec::new()), 1 => vec((text(), anything()), 1..3)].boxed());
    pairs.prop_map(|pairs| pairs.concat()).prop_shuffle().prop_map(Tree::Map)
}

fn reading() -> BoxedStrategy<Tree> {
    let fields = vec((text(), mostly(scalar())), 0..6).prop_map(Tree::Map);
    mostly(map(vec![
        ("fields", 200, mostly(fields)),
        ("time", 20, time()),
        ("tags", 10, tags()),
        ("measurement", 10, measurement()),
    ]))
}

fn columns() -> BoxedStrategy<Tree> {
    let table = (0..8_usize).prop_flat_map(|rows| {
        let around = prop_oneof![30 => Just(rows), 1 => 0..8_usize];
        let cell = prop_oneof![4 => scalar(), 1 => Just(Tree::Nil), 1 => anything()].boxed();
        let column =
            around.clone().prop_flat_map(move |rows| vec(cell.clone(), rows)).prop_map(Tree::Array);
        let steps = map(vec![
            ("start", 300, mostly(any::<i64>().prop_map(Tree::Int))),
            ("step", 300, mostly(any::<i32>().prop_map(|n| Tree::Int(i64::from(n))))),
        ]);
        let each = around.prop_flat_map(|rows| vec(time(), rows)).prop_map(Tree::Array);
        map(vec![
            ("fields", 300, mostly(vec((text(), column), 0..5).prop_map(Tree::Map))),
            ("time", 20, mostly(prop_oneof![steps, each])),
            ("tags", 10, tags()),
            ("measurement", 10, measurement()),
        ])
    });
    mostly(table)
}

fn body() -> impl Strategy<Value = Tree> {
    let readings = || mostly(vec(reading(), 0..8).prop_map(Tree::Array));
    prop_oneof![
        10 => map(vec![("readings", 300, readings())]),
        10 => map(vec![("columns", 300, columns())]),
        1 => map(vec![("readings", 10, readings()), ("columns", 10, columns())]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_batch_means_what_its_tree_means(
        body in body(),
        seq in 1..=proto::MAX_SEQ,
        place: prop::sample::Index,
        seed: u64,
    ) {
        let Tree::Map(mut pairs) = body else { unreachable!() };
        let expected = tree::batch(seq, &pairs, &LIMITS);
        let place = place.index(pairs.len() + 1);
        pairs.insert(place, (b"seq".to_vec(), Tree::Int(seq as i64)));
        let mut writer = Writer { out: Vec::new(), seed };
        writer.put(&Tree::Map(pairs));
        let got = batch(&writer.out, &LIMITS).unwrap();
        prop_assert_eq!(got, expected);
    }
}

/// The reference is not blind: it names every code that decoding can give.
#[test]
fn random_batches_reach_every_refusal() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    let strategy = body();
    for _ in 0..2_000 {
        let Tree::Map(pairs) = strategy.new_tree(&mut runner).unwrap().current() else {
            unreachable!()
        };
        let json = tree::batch(1, &pairs, &LIMITS);
        let whole = json.get("refused").into_iter();
        let readings = json.get("readings").and_then(|readings| readings.as_array());
        let inner = readings.into_iter().flatten().filter_map(|reading| reading.get("refused"));
        seen.extend(whole.chain(inner).map(|code| code.as_str().unwrap().to_owned()));
    }
    for code in [
        "bad_type",
        "no_fields",
        "too_many_fields",
        "too_many_tags",
        "duplicate_key",
        "bad_utf8",
        "time_implausible",
        "empty_batch",
        "too_many_readings",
        "unequal_columns",
        "bad_batch",
    ] {
        assert!(seen.contains(code), "{code} not in {seen:?}");
    }
}
