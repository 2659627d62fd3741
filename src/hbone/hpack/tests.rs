//! Properties and edges. The RFC's own examples are in `examples`.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::peer::{Field, Form, Peer, encode, pack};
use super::static_table::{self, Found};
use super::{Decoder, Error, field, huffman, no_table};

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())))?;
    Ok(fields)
}

fn fresh(block: &[u8]) -> Result<Vec<Field>, Error> {
    decode(&mut Decoder::new(4096), block)
}

fn pair(name: &str, value: &str) -> Field {
    (name.into(), value.into())
}

/// A literal with the name `n` that becomes an entry of 33 bytes and those of its value.
fn insert(value: &[u8]) -> Vec<u8> {
    [&[0x40, 1, b'n', value.len() as u8], value].concat()
}

#[test]
fn the_code_is_complete_and_free_of_prefixes() {
    let codes: Vec<(u32, u32)> = (0..=256).map(huffman::code).collect();
    let kraft: u64 = codes.iter().map(|&(_, length)| 1 << (32 - length)).sum();
    assert_eq!(kraft, 1 << 32);
    for (at, &(code, length)) in codes.iter().enumerate() {
        assert!((5..=30).contains(&length) && code >> length == 0);
        for &(other, longer) in codes.iter().skip(at + 1) {
            let common = length.min(longer);
            assert_ne!(code >> (length - common), other >> (longer - common));
        }
    }
    // Some of RFC 7541, Appendix B, of all parts of the table.
    let known = [
        (0, 0x1ff8, 13),
        (usize::from(b'\n'), 0x3ffffffc, 30),
        (usize::from(b' '), 0x14, 6),
        (usize::from(b'0'), 0x0, 5),
        (usize::from(b'X'), 0xfc, 8),
        (usize::from(b'\\'), 0x7fff0, 19),
        (usize::from(b'z'), 0x7b, 7),
        (127, 0xffffffc, 28),
        (195, 0x7fff1, 19),
        (255, 0x3ffffee, 26),
        (256, 0x3fffffff, 30),
    ];
    for (symbol, code, length) in known {
        assert_eq!(huffman::code(symbol), (code, length), "{symbol}");
    }
}

#[test]
fn every_octet_is_decoded_wherever_it_starts() {
    for octet in 0..=255 {
        for before in 0..8 {
            // Codes of five bits shift the rest to every place within a byte.
            let text = [&vec![b'0'; before][..], &[octet, b'a', octet]].concat();
            let mut out = Vec::new();
            huffman::decode(&encode(&text), &mut out).unwrap();
            assert_eq!(out, text);
        }
    }
}

#[test]
fn padding_is_seven_ones_at_most_and_the_end_of_string_is_none() {
    let result = |coded: &[u8]| huffman::decode(coded, &mut Vec::new());
    assert_eq!(result(&[]), Ok(()));
    // "0" has the code 00000.
    assert_eq!(result(&[0b0000_0111]), Ok(()));
    assert_eq!(result(&[0b0000_0110]), Err(Error::Padding));
    assert_eq!(result(&[0b0000_0011]), Err(Error::Padding));
    assert_eq!(result(&[0b0000_0111, 0xff]), Err(Error::Padding));
    assert_eq!(result(&[0xff]), Err(Error::Padding));
    assert_eq!(result(&[0xff, 0xff, 0xff]), Err(Error::Padding));
    // "?" has 1111111100, whose start is no padding.
    assert_eq!(result(&[0xff, 0b0011_1111]), Ok(()));
    assert_eq!(result(&[0xff, 0xff, 0xff, 0xff]), Err(Error::EndOfString));
    assert_eq!(result(&pack([b'a'.into(), 256])), Err(Error::EndOfString));
    assert_eq!(result(&pack([256, b'a'.into()])), Err(Error::EndOfString));
}

#[test]
fn lookups_find_every_entry() {
    for index in 1..static_table::END {
        let (name, value) = static_table::get(index).unwrap();
        assert_eq!(static_table::find(name, value), Found::Field(index as u8));
        let first = (1..).find(|&at| static_table::get(at).unwrap().0 == name).unwrap();
        assert_eq!(static_table::find(name, b"?"), Found::Name(first as u8));
    }
    assert_eq!(static_table::END, 62);
    for name in ["", "x-none", ":metho", ":methods", "accept-charsex", &"a".repeat(27), &"a".repeat(500)] {
        assert_eq!(static_table::find(name.as_bytes(), b""), Found::Nothing, "{name}");
    }
}

#[test]
fn the_encoder_takes_the_shortest_form() {
    let form = |name: &str, value: &str| {
        let mut out = Vec::new();
        field(&mut out, name.as_bytes(), value.as_bytes());
        out
    };
    assert_eq!(form(":status", "200"), [0x88]);
    assert_eq!(form(":status", "503"), [8, 3, b'5', b'0', b'3']);
    assert_eq!(form(":method", "CONNECT"), *b"\x02\x07CONNECT");
    // The name's index has all ones of four bits, so a second byte follows.
    assert_eq!(form("accept-charset", "u"), [0x0f, 0, 1, b'u']);
    assert_eq!(form("via", "1"), [0x0f, 45, 1, b'1']);
    assert_eq!(form("x", "y"), [0, 1, b'x', 1, b'y']);
    assert_eq!(form("x", &"y".repeat(200))[3..5], [0x7f, 73]);
    let mut out = Vec::new();
    no_table(&mut out);
    assert_eq!(out, [0x20]);
}

#[test]
fn indices_outside_of_the_tables_are_errors() {
    for block in [&[0x80][..], &[0xbe], &[0xff, 0x80, 0x01], &[0x7f, 0, 1, b'v'], &[0x0f, 47, 1, b'v']] {
        assert_eq!(fresh(block), Err(Error::Index), "{block:x?}");
    }
    // One entry, so 62 is the last index.
    let mut decoder = Decoder::new(4096);
    decode(&mut decoder, &insert(b"v")).unwrap();
    assert_eq!(decode(&mut decoder, &[0xbe]), Ok(vec![pair("n", "v")]));
    assert_eq!(decode(&mut decoder, &[0xbf]), Err(Error::Index));
}

#[test]
fn integers_are_bounded() {
    // Index 2^32 - 1, and one more; then a zero with too many bytes.
    assert_eq!(fresh(&[0xff, 0x80, 0xff, 0xff, 0xff, 0x0f]), Err(Error::Index));
    assert_eq!(fresh(&[0xff, 0x81, 0xff, 0xff, 0xff, 0x0f]), Err(Error::Integer));
    assert_eq!(fresh(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]), Err(Error::Integer));
    assert_eq!(fresh(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0]), Err(Error::Integer));
    // A needless zero within the bound is legal: index 127 is none, and 0x7f as a length is 127 bytes.
    assert_eq!(fresh(&[0xff, 0x80, 0]), Err(Error::Index));
    let long = [&[0, 1, b'n', 0x7f, 0x80, 0x00][..], &[b'v'; 127]].concat();
    assert_eq!(fresh(&long), Ok(vec![pair("n", &"v".repeat(127))]));
}

#[test]
fn a_block_that_ends_early_is_an_error() {
    let mut block = insert(b"value");
    block.extend([0x0f, 45, 0x85, 0xae, 0xc3, 0x77, 0x1a, 0x4b]);
    let ends = [0, insert(b"value").len(), block.len()];
    for end in 0..=block.len() {
        let result = fresh(&block[..end]);
        assert_eq!(result.is_ok(), ends.contains(&end), "{end}");
        assert!(result.is_ok() || result == Err(Error::Truncated));
    }
}

#[test]
fn sizes_change_before_the_first_field_and_up_to_the_limit() {
    let mut decoder = Decoder::new(100);
    assert_eq!(decode(&mut decoder, &[0x20, 0x3f, 69, 0x82]).unwrap().len(), 1);
    assert_eq!(decode(&mut decoder, &[0x3f, 70]), Err(Error::TableSize));
    assert_eq!(decode(&mut decoder, &[0x82, 0x20]), Err(Error::LateTableSize));
    assert_eq!(decode(&mut decoder, &[0x20]), Ok(vec![]));
    // A limit above the default is not in force before the peer says so.
    let mut decoder = Decoder::new(8192);
    let entry = insert(&[b'v'; 100]);
    let whole = entry.repeat(80);
    decode(&mut decoder, &whole).unwrap();
    assert_eq!(decoder.measure().0.0, 4096 / 133 * 133);
    decode(&mut decoder, &[&[0x3f, 0xe1, 0x3f][..], &whole].concat()).unwrap();
    assert_eq!(decoder.measure().0.0, 8192 / 133 * 133);
}

#[test]
fn the_oldest_entries_go_first() {
    // Room for two entries of 34 bytes.
    let mut decoder = Decoder::new(80);
    decode(&mut decoder, &[insert(b"1"), insert(b"2"), insert(b"3")].concat()).unwrap();
    assert_eq!(decode(&mut decoder, &[0xbe, 0xbf]), Ok(vec![pair("n", "3"), pair("n", "2")]));
    assert_eq!(decode(&mut decoder, &[0xc0]), Err(Error::Index));
    // The name comes from the entry that has to go.
    let block = [&[0x7f, 0, 20][..], &[b'v'; 20]].concat();
    assert_eq!(decode(&mut decoder, &block), Ok(vec![pair("n", &"v".repeat(20))]));
    assert_eq!(decoder.measure().0.0, 53);
    // A smaller table keeps the newest; it does not come back.
    decode(&mut decoder, &insert(b"")).unwrap();
    assert_eq!(decode(&mut decoder, &[0x3f, 3, 0x3f, 49, 0xbe]), Ok(vec![pair("n", "")]));
    assert_eq!(decode(&mut decoder, &[0xbf]), Err(Error::Index));
    // One that never fits empties the table, and is a field all the same.
    assert_eq!(decode(&mut decoder, &insert(&[b'v'; 48])).unwrap().len(), 1);
    assert_eq!(decoder.measure().0, (0, 0, decoder.measure().0.2));
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    let mut decoder = Decoder::new(4096);
    let mut block = Vec::new();
    for (name, value) in [(":status", "200"), (":authority", "10.0.0.1:80"), ("x-name", "x-value")] {
        field(&mut block, name.as_bytes(), value.as_bytes());
    }
    decode(&mut decoder, &block).unwrap();
    assert_eq!(decoder.measure(), ((0, 0, 0), 0));
    // What a long string took is given back, and so is a table that is made empty for good.
    let coded = encode(&[b'v'; 3000]);
    let mut block = vec![0x40, 1, b'n'];
    super::encoder::integer(&mut block, 0x80, 7, coded.len());
    block.extend(coded);
    assert_eq!(decode(&mut decoder, &block), Ok(vec![pair("n", &"v".repeat(3000))]));
    let ((size, count, text), scratch) = decoder.measure();
    assert_eq!((size, count, scratch), (3033, 1, 0));
    assert!((3001..=6144).contains(&text));
    decode(&mut decoder, &[0x20]).unwrap();
    assert_eq!(decoder.measure(), ((0, 0, 0), 0));
}

fn some_field() -> impl Strategy<Value = Field> {
    let names = vec![":status", ":method", ":path", "accept", "via", "x-forwarded-for", "baggage", "n"];
    let values = vec!["", "200", "/", "GET", "10.0.0.1", "a longer value, with more in it"];
    let name = prop_oneof![4 => select(names).prop_map(Vec::from), 1 => vec(any::<u8>(), 0..40)];
    let value = prop_oneof![4 => select(values).prop_map(Vec::from), 1 => vec(any::<u8>(), 0..300)];
    (name, value)
}

fn some_form() -> impl Strategy<Value = Form> {
    (any::<[bool; 3]>(), select(vec![0, 0, 0, 1, 2]), any::<[bool; 2]>())
        .prop_map(|([index, name, oldest], literal, coded)| Form { index, name, oldest, literal, coded })
}

proptest! {
    // Unoptimised, 256 of them take a minute.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_is_encoded_is_decoded(fields in vec(some_field(), 0..20)) {
        let mut block = Vec::new();
        no_table(&mut block);
        for (name, value) in &fields {
            field(&mut block, name, value);
        }
        prop_assert_eq!(fresh(&block), Ok(fields));
    }

    #[test]
    fn blocks_of_another_encoder_are_decoded(
        blocks in vec((vec(0usize..=1500, 0..3), vec((some_field(), some_form()), 0..20)), 1..12),
        limit in select(vec![0usize, 60, 400, 1500]),
    ) {
        let mut peer = Peer::new(limit);
        let mut decoder = Decoder::new(limit);
        for (sizes, fields) in blocks {
            let mut block = Vec::new();
            for size in sizes {
                peer.resize(&mut block, size.min(limit));
            }
            for (field, form) in &fields {
                peer.field(&mut block, field, *form);
            }
            let fields: Vec<Field> = fields.into_iter().map(|(field, _)| field).collect();
            prop_assert_eq!(decode(&mut decoder, &block), Ok(fields));
            let ((size, count, text), _) = decoder.measure();
            prop_assert_eq!((size, count), (peer.size(), peer.count()));
            prop_assert!(size <= limit && text <= limit + limit / 2);
        }
    }

    #[test]
    fn no_input_panics(blocks in vec(vec(any::<u8>(), 0..400), 1..8), limit in 0usize..5000) {
        let mut decoder = Decoder::new(limit);
        for block in &blocks {
            // Also after an error.
            let _ = decode(&mut decoder, block);
            let ((size, _, text), scratch) = decoder.measure();
            prop_assert!(size <= limit && text <= limit + limit / 2 && scratch <= 512);
        }
    }

    #[test]
    fn huffman_output_is_bounded(coded in vec(any::<u8>(), 0..400)) {
        let mut out = Vec::new();
        if huffman::decode(&coded, &mut out).is_ok() {
            // Only one encoding is legal, so it is found again.
            prop_assert_eq!(encode(&out), coded.clone());
        }
        prop_assert!(out.len() <= coded.len() * 8 / 5);
    }
}
