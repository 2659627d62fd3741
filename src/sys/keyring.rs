//! Small secrets that the kernel keeps in its own memory (keyrings(7)), and that outlive the process: never on a disk or in swap.
//!
//! They stand in the user keyring of this process's user, which is one for all containers of a machine that run as that user in the same
//! user namespace. So a secret here is no more than half of one: what it opens has to stand where those others cannot read.

use std::ffi::CString;
use std::io;
use std::time::Duration;

use libc::{KEY_SPEC_THREAD_KEYRING, KEY_SPEC_USER_KEYRING, c_long};

/// Bytes of a secret at most.
pub const MOST: usize = 128;

/// Its possessor may see, read, replace and find it, and set when it ends; others of its user only see that it is there (/proc/keys).
const PERMISSIONS: c_long = 0x2f01_0000;

/// A secret in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(c_long);

/// Puts a secret under a name, in place of one that had it.
///
/// # Errors
/// The kernel has no keyrings (`ENOSYS`), a filter of system calls forbids them (`EPERM`), or the user has too many keys (`EDQUOT`).
pub fn add(name: &str, secret: &[u8]) -> io::Result<Key> {
    let name = CString::new(name)?;
    // SAFETY: type and name end with a zero byte, and the kernel copies `secret.len()` bytes of the secret.
    let added = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            secret.as_ptr(),
            secret.len(),
            KEY_SPEC_USER_KEYRING,
        )
    };
    let key = Key(checked(added)?);
    possess()?;
    control(libc::KEYCTL_SETPERM, [key.0, PERMISSIONS, 0, 0])?;
    Ok(key)
}

/// The secret that has a name; `None` where none has it, or its time is over.
///
/// # Errors
/// As of [`add`].
pub fn find(name: &str) -> io::Result<Option<Key>> {
    let name = CString::new(name)?;
    let (kind, name) = (c"user".as_ptr() as c_long, name.as_ptr() as c_long);
    match control(libc::KEYCTL_SEARCH, [c_long::from(KEY_SPEC_USER_KEYRING), kind, name, 0]) {
        Ok(key) => Ok(Some(Key(key))),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOKEY | libc::EKEYEXPIRED | libc::EKEYREVOKED) => Ok(None),
            _ => Err(error),
        },
    }
}

impl Key {
    /// The secret.
    ///
    /// # Errors
    /// It is gone, or longer than [`MOST`].
    pub fn read(self) -> io::Result<Vec<u8>> {
        possess()?;
        let mut secret = vec![0; MOST];
        let length = control(
            libc::KEYCTL_READ,
            [self.0, secret.as_mut_ptr() as c_long, c_long::try_from(MOST).unwrap_or(0), 0],
        )?;
        // The kernel says how long it is, also where that is more than there was room for.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than any of ours"));
        }
        secret.truncate(length);
        Ok(secret)
    }

    /// The kernel forgets it after this time, counted from now; rounded up to seconds.
    ///
    /// # Errors
    /// It is gone.
    pub fn end_after(self, time: Duration) -> io::Result<()> {
        possess()?;
        let seconds = c_long::from(u32::try_from(time.as_secs().saturating_add(1)).unwrap_or(u32::MAX));
        control(libc::KEYCTL_SET_TIMEOUT, [self.0, seconds, 0, 0]).map(|_| ())
    }

    /// Takes it away.
    ///
    /// # Errors
    /// It is gone.
    pub fn remove(self) -> io::Result<()> {
        control(libc::KEYCTL_UNLINK, [self.0, c_long::from(KEY_SPEC_USER_KEYRING), 0, 0]).map(|_| ())
    }
}

/// Has this thread possess what is in its user's keyring: a container's session keyring has no link to it.
fn possess() -> io::Result<()> {
    let link = [KEY_SPEC_USER_KEYRING, KEY_SPEC_THREAD_KEYRING].map(c_long::from);
    control(libc::KEYCTL_LINK, [link[0], link[1], 0, 0]).map(|_| ())
}

fn control(operation: u32, [a, b, c, d]: [c_long; 4]) -> io::Result<c_long> {
    // SAFETY: the arguments of each operation that is asked for above are numbers, names that end with a zero byte and live as long as this
    // call, or a buffer with its true length.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, c_long::from(operation), a, b, c, d) })
}

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_until_it_is_taken_away_or_its_time_is_over() {
        let name = format!("aquifer test {}", std::process::id());
        match find(&name) {
            Ok(found) => assert_eq!(found, None),
            Err(error) => {
                println!("skipped: the kernel keeps no keys here: {error}");
                assert!(std::env::var_os("AQUIFER_NO_SKIP").is_none());
                return;
            }
        }
        add(&name, b"one").unwrap();
        let key = add(&name, b"another").unwrap();
        // Another thread has no thread keyring yet, as a process that starts anew.
        let found = std::thread::scope(|scope| scope.spawn(|| find(&name).unwrap().unwrap().read()).join());
        assert_eq!(found.unwrap().unwrap(), b"another");
        let keys = std::fs::read_to_string("/proc/keys").unwrap();
        let line = keys.lines().find(|line| line.contains(&name)).unwrap();
        assert!(line.contains(" 2f010000 "), "{line}");
        assert!(!keys.contains("another"));

        key.end_after(Duration::from_secs(3600)).unwrap();
        key.remove().unwrap();
        assert_eq!(find(&name).unwrap(), None);
        let key = add(&name, b"short").unwrap();
        key.end_after(Duration::ZERO).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while find(&name).unwrap().is_some() {
            assert!(std::time::Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        // It stays as an ended one until it is replaced.
        add(&name, &[7; MOST]).unwrap();
        find(&name).unwrap().unwrap().remove().unwrap();
    }
}
