//! Copies between host and device that nobody waits for.
//!
//! Owns, for each direction, page-locked memory, its twin on the device, and a stream beside the one that computes. What
//! goes over the bus does so on the streams beside; on the one that computes there are copies within the device only, so
//! that it is not held up by a bus. Must not know what is copied.
//!
//! Of a copy to the device: host → page-locked memory, at once; page-locked memory → twin, on the stream beside, while
//! the programs asked for before still run; twin → its place, in the order of the programs. Of a copy to the host the
//! same backwards. Each direction has a stream of its own, because copies to the host wait for programs, and those to
//! the device are not to wait behind them.

use std::collections::VecDeque;
use std::ptr;

use cudarc::driver::sys;

use crate::cuda::driver::gpu::{check, or_end};
use crate::cuda::driver::ring::Ring;
use crate::cuda::error::CudaError;

/// One direction.
struct Channel {
    /// Page-locked.
    host: *mut u8,
    /// As large, on the device.
    twin: sys::CUdeviceptr,
    /// On which the bus is used.
    stream: sys::CUstream,
    ring: Ring,
    /// Of each part that is claimed, oldest first, what says that it is not needed any more.
    done: VecDeque<sys::CUevent>,
}

impl Channel {
    fn new(bytes: u64) -> Result<Channel, CudaError> {
        let ring = Ring::new(usize::try_from(bytes).unwrap_or(usize::MAX));
        let bytes = ring.bytes();
        let (mut host, mut stream, mut twin) = (ptr::null_mut(), ptr::null_mut(), 0);
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current.
        unsafe {
            check(sys::cuMemAllocHost_v2(&mut host, bytes), "locking memory of the host")?;
            check(sys::cuMemAlloc_v2(&mut twin, bytes), "allocating memory for copies")?;
            check(sys::cuStreamCreate(&mut stream, flags), "creating a stream")?;
        }
        let done = VecDeque::new();
        Ok(Channel { host: host.cast(), twin, stream, ring, done })
    }

    /// The page-locked side and the twin of a part.
    fn sides(&self, begin: usize) -> (*mut u8, sys::CUdeviceptr) {
        // SAFETY: the ring has as many bytes as the memory.
        (unsafe { self.host.add(begin) }, self.twin + begin as u64)
    }
}

/// A reading that was asked for.
enum Reading {
    /// Of so many bytes from there on in the channel.
    Queued(usize, usize),
    /// There was no room: it was waited for.
    Read(Vec<u8>),
}

/// See the module's text. The context is current in every call.
pub(super) struct Transfers {
    up: Channel,
    down: Channel,
    readings: VecDeque<Reading>,
    /// Says that one stream has come as far as the other is to wait for.
    crossing: sys::CUevent,
    spare: Vec<sys::CUevent>,
}

fn event() -> Result<sys::CUevent, CudaError> {
    let mut event = ptr::null_mut();
    let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
    // SAFETY: the context is current.
    check(unsafe { sys::cuEventCreate(&mut event, flags) }, "creating an event")?;
    Ok(event)
}

impl Transfers {
    /// With room for so many bytes on their way to the device and to the host.
    ///
    /// # Errors
    /// If there is no memory to be had, or to be locked.
    pub(super) fn new(up: u64, down: u64) -> Result<Transfers, CudaError> {
        Ok(Transfers {
            up: Channel::new(up)?,
            down: Channel::new(down)?,
            readings: VecDeque::new(),
            crossing: event()?,
            spare: Vec::new(),
        })
    }

    /// Whether there is as much room.
    pub(super) fn holds(&self, up: u64, down: u64) -> bool {
        self.up.ring.bytes() as u64 >= up && self.down.ring.bytes() as u64 >= down
    }

    /// Lets one stream wait for what was asked of the other.
    fn cross(&self, from: sys::CUstream, to: sys::CUstream) -> Result<(), CudaError> {
        // SAFETY: event and streams live as long as `self`; what is waited for is what was recorded last.
        unsafe {
            check(sys::cuEventRecord(self.crossing, from), "copying")?;
            check(sys::cuStreamWaitEvent(to, self.crossing, 0), "copying")
        }
    }

    /// Records where a stream is now.
    fn mark(&mut self, stream: sys::CUstream) -> Result<sys::CUevent, CudaError> {
        let event = match self.spare.pop() {
            Some(event) => event,
            None => event()?,
        };
        // SAFETY: event and stream live as long as `self`.
        check(unsafe { sys::cuEventRecord(event, stream) }, "copying")?;
        Ok(event)
    }

    /// Waits for the oldest of a direction's parts and gives it back.
    fn release(channel: &mut Channel, spare: &mut Vec<sys::CUevent>) -> Result<(), CudaError> {
        let event = channel.done.pop_front().expect("a part for each event");
        // SAFETY: the event was recorded.
        check(unsafe { sys::cuEventSynchronize(event) }, "running")?;
        spare.push(event);
        channel.ring.release();
        Ok(())
    }

    /// Copies into the device's memory, in the order of what `computing` was asked for. Returns whether there is room
    /// for so much; nothing is copied where there is none.
    pub(super) fn write(&mut self, computing: sys::CUstream, address: u64, bytes: &[u8]) -> bool {
        if bytes.len() > self.up.ring.bytes() {
            return false;
        }
        let begin = loop {
            match self.up.ring.claim(bytes.len()) {
                Some(begin) => break begin,
                None => or_end(Transfers::release(&mut self.up, &mut self.spare)),
            }
        };
        let (host, twin) = self.up.sides(begin);
        let count = bytes.len();
        // SAFETY: the part is ours until its event has passed; the caller's range is one of the device's.
        let copied = unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), host, count);
            let status = sys::cuMemcpyHtoDAsync_v2(twin, host.cast(), count, self.up.stream);
            check(status, "copying to the device")
                .and_then(|()| self.cross(self.up.stream, computing))
                .and_then(|()| {
                    let status = sys::cuMemcpyDtoDAsync_v2(address, twin, count, computing);
                    check(status, "copying to the device")
                })
        };
        let done = or_end(copied.and_then(|()| self.mark(computing)));
        self.up.done.push_back(done);
        true
    }

    /// Asks for bytes of the device as they are when `computing` has done what it was asked for.
    pub(super) fn queue_read(&mut self, computing: sys::CUstream, address: u64, count: usize) {
        let Some(begin) = self.down.ring.claim(count) else {
            let mut bytes = vec![0u8; count];
            // SAFETY: the caller's range is one of the device's, and is not written any more after the wait.
            unsafe {
                or_end(check(sys::cuStreamSynchronize(computing), "running"));
                let status = sys::cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), address, count);
                or_end(check(status, "copying from the device"));
            }
            return self.readings.push_back(Reading::Read(bytes));
        };
        let (host, twin) = self.down.sides(begin);
        // SAFETY: as for writing.
        let copied = unsafe {
            let status = sys::cuMemcpyDtoDAsync_v2(twin, address, count, computing);
            check(status, "copying from the device")
                .and_then(|()| self.cross(computing, self.down.stream))
                .and_then(|()| {
                    let status =
                        sys::cuMemcpyDtoHAsync_v2(host.cast(), twin, count, self.down.stream);
                    check(status, "copying from the device")
                })
        };
        let done = or_end(copied.and_then(|()| self.mark(self.down.stream)));
        self.down.done.push_back(done);
        self.readings.push_back(Reading::Queued(begin, count));
    }

    /// Waits for the oldest reading.
    pub(super) fn fetch(&mut self, bytes: &mut [u8]) {
        match self.readings.pop_front().expect("what is fetched was asked for") {
            Reading::Read(read) => bytes.copy_from_slice(&read),
            Reading::Queued(begin, count) => {
                assert_eq!(bytes.len(), count, "bytes of the reading");
                let (host, _) = self.down.sides(begin);
                let event = *self.down.done.front().expect("a part for each reading");
                // SAFETY: the event was recorded behind the copy; the part is ours until it is released.
                unsafe {
                    or_end(check(sys::cuEventSynchronize(event), "running"));
                    ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), count);
                }
                or_end(Transfers::release(&mut self.down, &mut self.spare));
            }
        }
    }

    /// Forgets the readings; waits for those that are on their way.
    pub(super) fn discard_reads(&mut self) {
        for reading in std::mem::take(&mut self.readings) {
            if let Reading::Queued(..) = reading {
                or_end(Transfers::release(&mut self.down, &mut self.spare));
            }
        }
    }

    /// Gives everything back.
    ///
    /// # Safety
    /// The context is current, and the stream that computes has been waited for.
    pub(super) unsafe fn destroy(&mut self) {
        // SAFETY: all of it was made here. Failures are ignored: the process gives everything back anyway.
        unsafe {
            for channel in [&self.up, &self.down] {
                let _ = sys::cuStreamSynchronize(channel.stream);
            }
            let done = self.up.done.drain(..).chain(self.down.done.drain(..));
            for event in done.chain(self.spare.drain(..)).chain([self.crossing]) {
                let _ = sys::cuEventDestroy_v2(event);
            }
            for channel in [&self.up, &self.down] {
                let _ = sys::cuMemFreeHost(channel.host.cast());
                let _ = sys::cuMemFree_v2(channel.twin);
                let _ = sys::cuStreamDestroy_v2(channel.stream);
            }
        }
    }
}
