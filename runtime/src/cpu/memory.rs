//! Memory of segments and of scratch: zeroed, page-aligned, of exactly the size asked for.
//!
//! Owns mapping and unmapping. Must not know what lies in the memory.

use std::io;

use memmap2::MmapMut;

/// A block of zeroed memory that stays where it is.
#[derive(Debug)]
pub(crate) struct Memory {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl Memory {
    /// `bytes` bytes from a page boundary on.
    pub(crate) fn zeroed(bytes: usize) -> io::Result<Memory> {
        Ok(Memory { map: MmapMut::map_anon(bytes.max(1))?, start: 0, bytes })
    }

    /// `bytes` bytes that end where a page begins which nobody may read or write. Their start is aligned as well as
    /// `bytes` divides.
    #[cfg(unix)]
    pub(crate) fn guarded(bytes: usize) -> io::Result<Memory> {
        // SAFETY: the call reads a setting and touches no memory.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
            .map_err(|_| io::Error::other("the page size of this system is unknown"))?;
        let usable = bytes.next_multiple_of(page);
        let mut map = MmapMut::map_anon(usable + page)?;
        let guard = map.as_mut_ptr().wrapping_add(usable);
        // SAFETY: the range is the last page of a mapping that this function owns and to which no reference exists;
        // `bytes` below leaves it out.
        if unsafe { libc::mprotect(guard.cast(), page, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Memory { map, start: usable - bytes, bytes })
    }

    /// Protected pages are offered on Unix only.
    #[cfg(not(unix))]
    pub(crate) fn guarded(_bytes: usize) -> io::Result<Memory> {
        Err(io::Error::other("protected pages are offered on Unix only"))
    }

    /// The first byte. The executor that owns the memory reads and writes through it.
    pub(crate) fn pointer(&mut self) -> *mut u8 {
        self.map.as_mut_ptr().wrapping_add(self.start)
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zeroed_and_aligned() {
        for bytes in [0, 1, 4096, 100_000] {
            let mut memory = Memory::zeroed(bytes).unwrap();
            assert_eq!(memory.bytes(), bytes);
            assert_eq!(memory.pointer() as usize % 4096, 0);
            // SAFETY: the block has that many bytes and nothing else refers to them.
            let bytes = unsafe { std::slice::from_raw_parts(memory.pointer(), bytes) };
            assert!(bytes.iter().all(|b| *b == 0));
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_guarded_block_ends_at_a_page() {
        let mut memory = Memory::guarded(256 * 21).unwrap();
        assert_eq!((memory.pointer() as usize + memory.bytes()) % 4096, 0);
        // SAFETY: the last byte of the block, to which nothing else refers.
        unsafe { memory.pointer().add(memory.bytes() - 1).write(1) };
    }
}
