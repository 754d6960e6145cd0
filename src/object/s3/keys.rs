//! Keys on their way out of a listing: `encoding-type=url` undone.

/// Undoes the encoding that a listing of `encoding-type=url` puts on keys: `%XX` is a byte and
/// `+` a space, as in a form.
///
/// `None` when the bytes are no UTF-8: the SDK can't ask for such a key.
pub(super) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(hex: u8) -> Option<u8> {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_listing_makes_it_panic_and_every_key_comes_back(listed in "\\PC*", key in "\\PC*") {
            let _ = decode(&listed);
            let encoded = key.bytes().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "%{byte:02x}");
                text
            });
            prop_assert_eq!(decode(&encoded), Some(key));
        }
    }

    #[test]
    fn an_encoded_key_is_decoded() {
        assert_eq!(decode("a%2Fb+c%2B%25.txt").as_deref(), Some("a/b c+%.txt"));
        assert_eq!(decode("%E2%82%AC%01").as_deref(), Some("€\u{1}"));
        assert_eq!(decode(""), Some(String::new()));
    }

    #[test]
    fn what_is_no_key_is_none() {
        for encoded in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(decode(encoded), None, "{encoded}");
        }
    }
}
