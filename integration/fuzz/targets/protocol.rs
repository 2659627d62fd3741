//! What parent and worker say to each other, and two processes of one node, and enrolments whose descriptors do not fit.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use aquifer_ztunnel_like::enrolment::{DESCRIPTORS, Enrolment, EnrolmentRecord};
use aquifer_ztunnel_like::protocol::{ToParent, ToWorker, decode, encode};
use aquifer_ztunnel_like::succession::{ToNext, ToServing};
use serde::{Deserialize, Serialize};

/// Reads the bytes as a message of either side. What is understood is written again and understood alike, and an enrolment
/// counts only together with the right descriptors.
pub(super) fn run(bytes: &[u8]) {
    if let Some(ToWorker::Adopt(record)) = message(bytes) {
        enrolment(&record);
    }
    if let Some(ToParent::Keep(record)) = message(bytes) {
        enrolment(&record);
    }
    if let Some(ToNext::Enrolled(record)) = message(bytes) {
        enrolment(&record);
    }
    message::<ToServing>(bytes);
}

fn message<T: Debug + Serialize + for<'a> Deserialize<'a>>(bytes: &[u8]) -> Option<T> {
    let message: T = decode(bytes).ok()?;
    let written = encode(&message);
    let again: T = match decode(&written) {
        Ok(again) => again,
        Err(error) => panic!("{message:?} was written as something that is no message: {error}"),
    };
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
    Some(message)
}

fn enrolment(record: &EnrolmentRecord) {
    for count in [0, 1, DESCRIPTORS - 1, DESCRIPTORS, DESCRIPTORS + 1] {
        // Regular descriptors, but none of a network namespace.
        let descriptors: Option<Vec<OwnedFd>> =
            (0..count).map(|_| std::fs::File::open("/dev/null").ok().map(OwnedFd::from)).collect();
        let Some(descriptors) = descriptors else { return };
        let result = Enrolment::from_parts(record.clone(), descriptors);
        assert!(result.is_err(), "{count} descriptors of /dev/null were taken for pod {}", record.uid);
    }
}
