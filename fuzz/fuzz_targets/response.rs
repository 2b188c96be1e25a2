//! A head that is taken is taken in the same way without the bytes after it, and its length is its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::upstream::parse_response_head;

fuzz_target!(|input: (bool, &[u8])| {
    let (is_head, data) = input;
    if let Ok(Some((head, fields, length))) = parse_response_head(data, is_head, None) {
        assert!(data[..length].ends_with(b"\r\n\r\n"));
        let (again, fields_again, _) = parse_response_head(&data[..length], is_head, None).unwrap().unwrap();
        assert_eq!((head, fields), (again, fields_again));
    }
});
