//! Resident memory of processes, exactly: each physical page once, however many of the processes share it.
//!
//! The kernel's own sum (VmRSS) counts a page that parent and worker share, such as the program's code, once for each of them;
//! the proportional sum (PSS) leaves out what other processes on the machine happen to share. Here the page tables themselves
//! are read: /proc/PID/pagemap has the physical frame behind each page of a process, and a set of frames knows no doubles.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::usage;

/// Bytes of an entry of /proc/PID/pagemap and of /proc/kpageflags, which are native 64-bit numbers.
const ENTRY: u64 = 8;
/// Entries that are read at a time: 1 MiB of the file, 512 MiB of memory.
const BATCH: u64 = 128 * 1024;
/// Bit of an entry of pagemap: the page is in memory (Documentation/admin-guide/mm/pagemap.rst, as for all bits here).
const PRESENT: u64 = 1 << 63;
/// Bit of an entry of pagemap: the page belongs to a file or to shared memory, so it is none of the heap's.
const OF_A_FILE: u64 = 1 << 61;
/// Bits of an entry of pagemap that are the frame's number.
const FRAME: u64 = (1 << 55) - 1;
/// Bit of /proc/kpageflags: the page of zeroes that stands in for memory nobody has written yet. It costs nothing.
const ZERO_PAGE: u64 = 1 << 24;

/// What processes hold, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All pages in memory.
    pub(crate) all: u64,
    /// Those of them that belong to no file: heap, stacks, and written data of programs.
    pub(crate) heap: u64,
}

impl Resident {
    /// Of a process and its descendants, which together are one node's proxy: each page that several of them share counts
    /// once.
    ///
    /// # Errors
    /// Without root (the kernel then hides frames), and where the process has ended.
    pub(crate) fn of(root: u32) -> Result<Self> {
        let mut frames = Frames::default();
        for pid in usage::family(root) {
            // One that ended meanwhile holds nothing.
            match frames.add(pid) {
                Ok(()) => {}
                Err(_) if !fs::exists(format!("/proc/{pid}")).unwrap_or(true) => {}
                Err(error) => return Err(error),
            }
        }
        ensure!(!frames.all.is_empty(), "process {root} has no memory: it has ended");
        frames.forget_zero_pages()?;
        let page = page_size()?;
        Ok(Self { all: frames.all.len() as u64 * page, heap: frames.heap.len() as u64 * page })
    }

    /// The sum over several nodes; what two nodes share counts for each, as it does on two machines.
    ///
    /// # Errors
    /// As [`Resident::of`].
    pub(crate) fn of_nodes(roots: &[u32]) -> Result<Self> {
        roots.iter().try_fold(Self::default(), |sum, &root| {
            let node = Self::of(root)?;
            Ok(Self { all: sum.all + node.all, heap: sum.heap + node.heap })
        })
    }
}

/// Time between two looks at memory that is to be still.
const LOOK: Duration = Duration::from_millis(200);
/// So many looks in a row find the same: longer than Aquifer takes to notice that it rests, and to give memory back.
const LOOKS: usize = 20;
/// Memory that changes by less than this between looks is still: what counters and queues of idle processes do.
const STILL: u64 = 64 * 1024;
/// Memory that is not still after this long is taken as it is, so that a leak shows as a figure instead of a hang.
const RESTLESS: Duration = Duration::from_secs(30);

impl Resident {
    /// As [`Resident::of_nodes`], once it is the same for four seconds.
    ///
    /// # Errors
    /// As [`Resident::of`].
    pub(crate) fn settled(roots: &[u32]) -> Result<Self> {
        let end = Instant::now() + RESTLESS;
        let mut last = Self::of_nodes(roots)?;
        let mut same = 0;
        while same < LOOKS && Instant::now() < end {
            thread::sleep(LOOK);
            let now = Self::of_nodes(roots)?;
            same = if now.all.abs_diff(last.all) < STILL { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}

#[derive(Default)]
struct Frames {
    all: HashSet<u64>,
    heap: HashSet<u64>,
}

impl Frames {
    fn add(&mut self, pid: u32) -> Result<()> {
        let maps = format!("/proc/{pid}/maps");
        let maps = fs::read_to_string(&maps).with_context(|| format!("cannot read {maps}"))?;
        let path = format!("/proc/{pid}/pagemap");
        let pagemap = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let page = page_size()?;
        for (start, end) in maps.lines().filter_map(range) {
            each_entry(&pagemap, start / page, end / page, |entry| self.take(entry))
                .with_context(|| format!("cannot read {path}"))?;
        }
        Ok(())
    }

    fn take(&mut self, entry: u64) -> Result<()> {
        if entry & PRESENT == 0 {
            return Ok(());
        }
        let frame = entry & FRAME;
        ensure!(frame != 0, "the kernel hides which pages are shared: run the bench as root");
        self.all.insert(frame);
        if entry & OF_A_FILE == 0 {
            self.heap.insert(frame);
        }
        Ok(())
    }

    fn forget_zero_pages(&mut self) -> Result<()> {
        let path = "/proc/kpageflags";
        let flags = File::open(path)
            .with_context(|| format!("cannot open {path}: the kernel needs CONFIG_PROC_PAGE_MONITOR"))?;
        // A page of zeroes is of no file.
        for frame in self.heap.iter().copied().collect::<Vec<_>>() {
            let mut entry = [0; ENTRY as usize];
            flags.read_exact_at(&mut entry, frame * ENTRY).with_context(|| format!("cannot read {path}"))?;
            if u64::from_ne_bytes(entry) & ZERO_PAGE != 0 {
                self.all.remove(&frame);
                self.heap.remove(&frame);
            }
        }
        Ok(())
    }
}

/// First and last address of a line of /proc/PID/maps (proc(5)); `None` for pages that the kernel lends to every process.
fn range(line: &str) -> Option<(u64, u64)> {
    let (addresses, rest) = line.split_once(' ')?;
    if ["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"].iter().any(|name| rest.ends_with(name)) {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Reads the entries of pages `first` to `end`, `end` not included.
fn each_entry(pagemap: &File, first: u64, end: u64, mut take: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; (BATCH.min(end - first) * ENTRY) as usize];
    let mut at = first;
    while at < end {
        let wanted = (BATCH.min(end - at) * ENTRY) as usize;
        let read = read_at(pagemap, &mut buffer[..wanted], at * ENTRY)?;
        // A mapping that went away since the maps were read.
        if read == 0 {
            return Ok(());
        }
        let (entries, _) = buffer[..read].as_chunks();
        for entry in entries {
            take(u64::from_ne_bytes(*entry))?;
        }
        at += read as u64 / ENTRY;
    }
    Ok(())
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn page_size() -> Result<u64> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?;
    size.and_then(|size| u64::try_from(size).ok()).context("the size of a page is not to be had")
}

#[cfg(test)]
mod tests {
    use std::{hint, process};

    use super::*;

    #[test]
    fn maps_are_read_without_the_kernels_own_pages() {
        let line = "7f00-7f10 r-xp 00000000 fe:00 123                    /usr/bin/a b";
        assert_eq!(range(line), Some((0x7f00, 0x7f10)));
        assert_eq!(range("7f00-7f10 r-xp 00000000 00:00 0                    [vdso]"), None);
        assert_eq!(range("no line of maps"), None);
    }

    #[test]
    fn a_shared_page_counts_once_and_an_absent_one_never() {
        let mut frames = Frames::default();
        for entry in [PRESENT | 7, PRESENT | OF_A_FILE | 8, PRESENT | OF_A_FILE | 8, 9, PRESENT | 7] {
            frames.take(entry).unwrap();
        }
        assert_eq!((frames.all.len(), frames.heap.len()), (2, 1));
        frames.take(PRESENT).unwrap_err();
    }

    /// Frames are for root to see; elsewhere there is nothing that this could look at.
    #[test]
    fn memory_that_is_written_shows() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let before = Resident::of(process::id()).unwrap();
        let written = hint::black_box(vec![1u8; 32 << 20]);
        let after = Resident::of(process::id()).unwrap();
        assert!(after.all - before.all >= 32 << 20, "{before:?} {after:?}");
        assert!(after.heap - before.heap >= 32 << 20 && after.heap < after.all, "{before:?} {after:?}");
        drop(written);
        assert!(Resident::of(process::id()).unwrap().all < after.all);
    }
}
