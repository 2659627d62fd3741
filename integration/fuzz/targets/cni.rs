//! What the CNI plug-in reads: a call's configuration, a node's question and answer, and the file that it is put into.

use aquifer_cni::node::{Answer, Ask, from_line, to_line};
use aquifer_cni::spec::Config;
use aquifer_cni::{conflist, outside};

/// Reads the bytes as each of them. A file that took the plug-in in has it once, gives it out again, and is then left alone.
pub(super) fn run(bytes: &[u8]) {
    let read = Config::read(bytes);
    if let Err(error) = &read {
        assert!(error.to_json().starts_with(b"{"), "a runtime cannot read {error:?}");
    }
    line::<Ask>(bytes);
    line::<Answer>(bytes);
    file(bytes);
    let text =
        outside::render(bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()));
    assert!(text.is_empty() || text.ends_with('\n'));
}

fn line<T: serde::Serialize + for<'a> serde::Deserialize<'a> + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = from_line::<T>(bytes) else { return };
    let written = to_line(&message);
    assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1, "{message:?} is more than a line");
    assert_eq!(from_line::<T>(&written).ok(), Some(message));
}

fn file(bytes: &[u8]) {
    let entry = [("socket".to_owned(), "/run/aquifer/cni.sock".into())].into_iter().collect();
    let Ok(Some(inserted)) = conflist::insert(bytes, &entry) else { return };
    assert!(conflist::contains(&inserted.text));
    assert_eq!(conflist::insert(&inserted.text, &entry), Ok(None), "it is put in again and again");
    let Ok(Some(without)) = conflist::remove(&inserted.text) else { panic!("it cannot be taken out") };
    assert!(!conflist::contains(&without));
    let again = conflist::insert(&without, &entry);
    assert!(again.is_ok_and(|again| again.is_some_and(|again| again.text == inserted.text)));
}
