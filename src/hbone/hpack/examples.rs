//! The examples of RFC 7541, Appendix C.

use super::Decoder;
use super::encoder::integer;
use super::reader::Reader;

const DATES: [&str; 2] = ["date: Mon, 21 Oct 2013 20:13:21 GMT", "date: Mon, 21 Oct 2013 20:13:22 GMT"];
const LOCATION: &str = "location: https://www.example.com";
const COOKIE: &str = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Decodes `hex`, and compares the fields, and then the table: its size and its number of entries.
fn check(decoder: &mut Decoder, hex: &str, fields: &[&str], table: (usize, usize)) {
    let mut got = Vec::new();
    let each = |name: &[u8], value: &[u8]| got.push([name, b": ", value].concat());
    decoder.decode(&bytes(hex), each).unwrap();
    let want: Vec<Vec<u8>> = fields.iter().map(|field| field.as_bytes().to_vec()).collect();
    assert_eq!(got, want);
    let ((size, count, _), _) = decoder.measure();
    assert_eq!((size, count), table);
}

#[test]
fn c1_integers() {
    for (value, prefix, hex) in [(10, 5, "0a"), (1337, 5, "1f 9a 0a"), (42, 8, "2a")] {
        let mut out = Vec::new();
        integer(&mut out, 0, prefix, value);
        assert_eq!(out, bytes(hex));
        let mut reader = Reader::new(&out);
        let first = reader.byte().unwrap();
        assert_eq!(reader.integer(first, prefix), Ok(value));
        assert_eq!(reader.byte(), None);
    }
}

#[test]
fn c2_fields() {
    let new = || Decoder::new(4096);
    let indexed = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
    check(&mut new(), indexed, &["custom-key: custom-header"], (55, 1));
    check(&mut new(), "040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"], (0, 0));
    check(&mut new(), "1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"], (0, 0));
    check(&mut new(), "82", &[":method: GET"], (0, 0));
}

fn requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(4096);
    let get = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    check(&mut decoder, blocks[0], &get, (57, 1));
    let again = [&get[..], &["cache-control: no-cache"]].concat();
    check(&mut decoder, blocks[1], &again, (110, 2));
    let third = [":method: GET", ":scheme: https", ":path: /index.html", get[3], "custom-key: custom-value"];
    check(&mut decoder, blocks[2], &third, (164, 3));
}

#[test]
fn c3_requests() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

/// The table has 256 bytes here, so entries are evicted.
fn responses(blocks: [&str; 3]) {
    let mut decoder = Decoder::new(256);
    let first = [":status: 302", "cache-control: private", DATES[0], LOCATION];
    check(&mut decoder, blocks[0], &first, (222, 4));
    let second = [":status: 307", "cache-control: private", DATES[0], LOCATION];
    check(&mut decoder, blocks[1], &second, (222, 4));
    let gzip = "content-encoding: gzip";
    let third = [":status: 200", "cache-control: private", DATES[1], LOCATION, gzip, COOKIE];
    check(&mut decoder, blocks[2], &third, (215, 3));
}

#[test]
fn c5_responses() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 \
         474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
         666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
         3630 303b 2076 6572 7369 6f6e 3d31",
    ]);
}

#[test]
fn c6_responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
         63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
         b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}
