//! Tests of the scan: every place of the schema is looked at, and what is too much is refused before it is decoded.

use proptest::prelude::*;

use super::*;
use crate::schema::tables::{GRAPH_PROTO, MODEL_PROTO};
use crate::wire::{Edit, edited, put, put_number};

fn scan(message: &'static Message, bytes: &[u8]) -> Result<Scan, String> {
    super::scan(message, bytes, MAX_DECODED_BYTES)
}

const SECRET: &str = "secrets.key";

/// A tensor whose elements lie in another file.
fn outside() -> Vec<u8> {
    let mut entry = Vec::new();
    put(&mut entry, 1, b"location");
    put(&mut entry, 2, SECRET.as_bytes());
    let mut tensor = Vec::new();
    put(&mut tensor, 8, b"stolen");
    put(&mut tensor, 13, &entry);
    put_number(&mut tensor, 14, 1);
    tensor
}

fn locations(references: &[Reference]) -> usize {
    let entries = references.iter().flat_map(|reference| match reference {
        Reference::Data { entries, .. } => entries.as_slice(),
        Reference::Engine { .. } => &[],
    });
    entries.filter(|(key, _)| key == "location").count()
}

struct Elsewhere;

impl Edit for Elsewhere {
    fn location(&mut self, location: &str) -> String {
        assert_eq!(location, SECRET);
        "0.data".into()
    }
}

fn occurrences(bytes: &[u8], of: &str) -> usize {
    let windows = bytes.windows(of.len());
    windows.filter(|window| *window == of.as_bytes()).count()
}

/// The numbers of the fields that lead from a model to each field with a tensor, by the shortest way.
fn ways_to_tensors() -> Vec<Vec<u64>> {
    let mut found = Vec::new();
    let mut seen = vec![MODEL_PROTO.number];
    let mut open: Vec<(&'static Message, Vec<u64>)> = vec![(&MODEL_PROTO, Vec::new())];
    while !open.is_empty() {
        let mut next = Vec::new();
        for (message, way) in open {
            for field in message.fields {
                let Kind::Message(inner) = field.kind else {
                    continue;
                };
                let way = [way.as_slice(), &[field.number]].concat();
                if inner.is(&TENSOR_PROTO) {
                    found.push(way);
                } else if !seen.contains(&inner.number) {
                    seen.push(inner.number);
                    next.push((inner, way));
                }
            }
        }
        open = next;
    }
    found
}

#[test]
fn a_tensor_is_found_wherever_the_standard_allows_one() {
    let ways = ways_to_tensors();
    // Initializers, sparse ones' values and indices, attributes' `t` and `tensors`.
    assert_eq!(ways.len(), 5, "{ways:?}");
    // What leads to a graph or an attribute, besides the shortest way.
    let others = [
        vec![20, 1, 5],
        vec![20, 2, 5],
        vec![25, 11, 5],
        vec![25, 7, 5, 5],
        vec![25, 7, 5, 6, 5],
        vec![7, 1, 5, 6, 5],
        vec![7, 1, 5, 11, 1, 5, 5],
        vec![7, 1, 5, 22, 1],
        vec![7, 1, 5, 23, 2],
        vec![25, 11, 23, 1],
        vec![25, 11, 6, 1, 5, 10],
    ];
    for way in ways.iter().chain(&others) {
        let mut bytes = outside();
        for number in way.iter().rev() {
            let mut around = Vec::new();
            put(&mut around, *number, &bytes);
            bytes = around;
        }
        let references = scan(&MODEL_PROTO, &bytes).unwrap().references;
        assert_eq!(locations(&references), 1, "{way:?}: {references:?}");
        let copy = edited(&bytes, &mut Elsewhere).unwrap();
        assert_eq!(occurrences(&copy, SECRET), 0, "{way:?}");
        let references = scan(&MODEL_PROTO, &copy).unwrap().references;
        assert_eq!(locations(&references), 1, "{way:?}");
    }
}

#[test]
fn a_tensor_that_says_half_of_it_is_outside_too() {
    let mut flag = Vec::new();
    put_number(&mut flag, 14, 1);
    let mut entry = Vec::new();
    put(&mut entry, 13, b"");
    for tensor in [flag, entry] {
        let references = scan(&TENSOR_PROTO, &tensor).unwrap().references;
        assert_eq!(references.len(), 1);
    }
}

#[test]
fn compiled_files_of_nodes_are_references() {
    let mut node = Vec::new();
    put(&mut node, 3, b"engine");
    put(&mut node, 4, b"EPContext");
    let references = scan(&NODE_PROTO, &node).unwrap().references;
    assert!(references[0].label().contains("`engine`"));
}

#[test]
fn what_the_schema_does_not_know_is_refused() {
    let graph = |content: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, content);
        scan(&MODEL_PROTO, &bytes).unwrap_err()
    };
    let mut unknown = Vec::new();
    put(&mut unknown, 99, b"?");
    assert!(graph(&unknown).contains("GraphProto has field 99"));
    let mut twice = Vec::new();
    put(&mut twice, 2, b"a");
    put(&mut twice, 2, b"b");
    assert!(graph(&twice).contains("`name` of GraphProto occurs twice"));
    let mut other = Vec::new();
    put_number(&mut other, 2, 7);
    assert!(graph(&other).contains("wire type 0"));
    // Also in what is not decoded.
    let mut metadata = Vec::new();
    put(&mut metadata, 16, &[0x00, 0x00]);
    assert!(graph(&metadata).contains("StringStringEntryProto has field 0"));
    // A group, which older parsers skip with all that is in it.
    assert!(graph(&[0x2b, 0x2c]).contains("damaged"));
    assert!(graph(&[0x0a, 0x7f]).contains("truncated at its byte 0"));
}

#[test]
fn bombs_are_refused_with_what_and_how_many() {
    // Empty nodes: two bytes each, and more than a hundred in memory.
    let graph = [0x0a, 0x00].repeat(3_000_000);
    let error = scan(&GRAPH_PROTO, &graph).unwrap_err();
    assert!(
        error.contains("268435456 bytes") && error.contains("NodeProto"),
        "{error}"
    );
    // Numbers: one byte each, and eight in memory.
    let mut packed = Vec::new();
    put(&mut packed, 8, &vec![0; 64 << 20]);
    let attribute = &tables::ATTRIBUTE_PROTO;
    assert!(scan(attribute, &packed).is_err());
    // Weights are not decoded and count nothing.
    let mut tensor = Vec::new();
    put(&mut tensor, 9, &vec![0; 300 << 20]);
    let scan = scan(&TENSOR_PROTO, &tensor).unwrap();
    assert!(scan.decoded_bytes < 1 << 20 && scan.skeleton.is_empty());
}

#[test]
fn nesting_has_a_limit() {
    let nested = |graphs: usize| {
        let mut bytes = Vec::new();
        for _ in 0..graphs {
            for number in [6, 5, 1] {
                let mut around = Vec::new();
                put(&mut around, number, &bytes);
                bytes = around;
            }
        }
        scan(&GRAPH_PROTO, &bytes)
    };
    nested(20).unwrap();
    let error = nested(30).unwrap_err();
    assert!(error.contains("limit is 64"), "{error}");
}

/// Bytes that decide what is generated; zeros when they are used up.
struct Entropy<'a>(std::slice::Iter<'a, u8>);

impl Entropy<'_> {
    fn below(&mut self, end: u8) -> u8 {
        self.0.next().map_or(0, |byte| byte % end)
    }
}

/// A message with any of its fields, in which `location` stands in external data alone.
fn any_message(message: &Message, entropy: &mut Entropy<'_>, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for field in message.fields {
        let most = if field.repeated { 3 } else { 2 };
        let deep = depth > 12 && matches!(field.kind, Kind::Message(_));
        let count = if deep { 0 } else { entropy.below(most) };
        for _ in 0..count {
            match field.kind {
                Kind::Varint => put_number(&mut out, field.number, entropy.below(200).into()),
                Kind::Bytes | Kind::Text => {
                    let words = ["", "x", "weights", "13", "\u{e4}\n\u{8}loc"];
                    let word = words[usize::from(entropy.below(5))];
                    put(&mut out, field.number, word.as_bytes());
                }
                Kind::Message(_) if field.name == "external_data" => {
                    let key: &[u8] =
                        [b"location".as_slice(), b"offset"][usize::from(entropy.below(2))];
                    let mut entry = Vec::new();
                    put(&mut entry, 1, key);
                    put(&mut entry, 2, SECRET.as_bytes());
                    put(&mut out, field.number, &entry);
                }
                Kind::Message(inner) => {
                    let inner = any_message(inner, entropy, depth + 1);
                    put(&mut out, field.number, &inner);
                }
                Kind::Fixed32 | Kind::Fixed64 | Kind::Group => {}
            }
        }
    }
    out
}

proptest! {
    #[test]
    fn nothing_in_a_file_panics_or_takes_much(bytes: Vec<u8>) {
        if let Ok(scan) = scan(&MODEL_PROTO, &bytes) {
            prop_assert!(scan.skeleton.len() <= 8 * bytes.len());
        }
    }

    /// What the schema's walk finds is what is there, as a search through the bytes shows.
    #[test]
    fn references_are_those_that_a_byte_scan_sees(choices in prop::collection::vec(any::<u8>(), 0..2000)) {
        let model = any_message(&MODEL_PROTO, &mut Entropy(choices.iter()), 0);
        let references = scan(&MODEL_PROTO, &model).unwrap().references;
        prop_assert_eq!(locations(&references), occurrences(&model, "location"));
        let copy = edited(&model, &mut Elsewhere).unwrap();
        let again = scan(&MODEL_PROTO, &copy).unwrap().references;
        prop_assert_eq!(again.len(), references.len());
        for reference in again {
            let Reference::Data { entries, .. } = reference else { continue };
            let renamed = entries.iter().all(|(key, value)| key != "location" || value == "0.data");
            prop_assert!(renamed, "{:?}", entries);
        }
    }
}

#[test]
fn what_a_backend_unpacks_is_weighed() {
    let weighed = |tag: u64, payload: &[u8], times: usize| {
        let mut tensor = Vec::new();
        (0..times).for_each(|_| put(&mut tensor, tag, payload));
        let scan = scan(&TENSOR_PROTO, &tensor).unwrap();
        assert!(scan.skeleton.is_empty());
        (tensor.len() as u64, scan.unpacked_bytes)
    };
    // Raw data and floats are as they are used.
    assert_eq!(weighed(9, &[0; 1000], 1).1, 0);
    assert!(weighed(4, &[0; 4000], 1).1 <= 4000 + ELEMENT_BYTES);
    // Numbers of one byte become eight, alone or packed.
    assert_eq!(weighed(7, &[1; 1000], 1).1, 8000);
    assert_eq!(weighed(5, &[1; 1000], 1).1, 8000);
    let mut alone = Vec::new();
    (0..1000).for_each(|_| put_number(&mut alone, 7, 1));
    assert_eq!(scan(&TENSOR_PROTO, &alone).unwrap().unpacked_bytes, 8000);
    let (empty_texts, unpacked) = weighed(6, b"", 1000);
    assert!(unpacked > 20 * empty_texts, "{unpacked} of {empty_texts}");
    // And properties that only people read.
    let (empty_properties, unpacked) = weighed(16, b"", 1000);
    assert!(
        unpacked > 20 * empty_properties,
        "{unpacked} of {empty_properties}"
    );
}
