//! A descriptor of cuDNN's backend: made, given attributes, finalised, destroyed with its owner.
//!
//! Owns every call on descriptors. The library may look at a descriptor as long as others refer to it, so whoever puts one
//! into another keeps both. Must not know what descriptors stand for.

use std::ffi::c_void;
use std::ptr;

use crate::cuda::driver::cudnn::library::{Functions, Raw};
use crate::cuda::driver::cudnn::names;
use crate::cuda::error::CudaError;

/// A descriptor that is destroyed with this value.
pub(super) struct Descriptor {
    raw: Raw,
    functions: &'static Functions,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `Descriptor::new`, destroyed once. A failure leaves nothing to do.
        let _ = unsafe { (self.functions.destroy_descriptor)(self.raw) };
    }
}

impl Descriptor {
    /// A descriptor of a kind.
    pub(super) fn new(functions: &'static Functions, kind: i32) -> Result<Descriptor, CudaError> {
        let mut raw = ptr::null_mut();
        // SAFETY: there is a place for the descriptor.
        let status = unsafe { (functions.create_descriptor)(kind, &mut raw) };
        functions.check(status, "making a descriptor")?;
        Ok(Descriptor { raw, functions })
    }

    /// What the library knows it by.
    pub(super) fn raw(&self) -> Raw {
        self.raw
    }

    fn set<T>(&self, attribute: i32, ty: i32, values: &[T]) -> Result<(), CudaError> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast::<c_void>());
        // SAFETY: the descriptor lives, and callers below give elements of the type that `ty` names.
        let status =
            unsafe { (self.functions.set_attribute)(self.raw, attribute, ty, count, values) };
        self.functions.check(status, "setting an attribute")
    }

    pub(super) fn numbers(self, attribute: i32, values: &[i64]) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::TYPE_INT64, values).map(|()| self)
    }

    pub(super) fn flag(self, attribute: i32, value: bool) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::TYPE_BOOLEAN, &[value]).map(|()| self)
    }

    /// An enumerator; `ty` says of which enumeration.
    pub(super) fn choice(
        self,
        attribute: i32,
        ty: i32,
        value: i32,
    ) -> Result<Descriptor, CudaError> {
        self.set(attribute, ty, &[value]).map(|()| self)
    }

    pub(super) fn format(self, attribute: i32, format: i32) -> Result<Descriptor, CudaError> {
        self.choice(attribute, names::TYPE_DATA_TYPE, format)
    }

    pub(super) fn part(self, attribute: i32, part: &Descriptor) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::TYPE_BACKEND_DESCRIPTOR, &[part.raw]).map(|()| self)
    }

    pub(super) fn parts(self, attribute: i32, parts: &[Raw]) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::TYPE_BACKEND_DESCRIPTOR, parts).map(|()| self)
    }

    pub(super) fn handle(self, attribute: i32, handle: Raw) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::TYPE_HANDLE, &[handle]).map(|()| self)
    }

    /// Pointers of host or device, which are not looked at.
    pub(super) fn pointers(
        self,
        attribute: i32,
        pointers: &[Raw],
    ) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::TYPE_VOID_PTR, pointers).map(|()| self)
    }

    #[cfg(any(test, feature = "cuda-shim"))]
    pub(super) fn text(self, attribute: i32, text: &str) -> Result<Descriptor, CudaError> {
        self.set(attribute, names::described::TYPE_CHAR, text.as_bytes()).map(|()| self)
    }

    /// Has the library check it; from then on it stays as it is.
    pub(super) fn finalized(self, doing: &'static str) -> Result<Descriptor, CudaError> {
        // SAFETY: the descriptor lives.
        let status = unsafe { (self.functions.finalize)(self.raw) };
        self.functions.check(status, doing).map(|()| self)
    }

    /// Reads up to so many elements of an attribute into `values`, and gives how many there are.
    ///
    /// # Safety
    /// Elements of `ty` are of type `T`.
    unsafe fn get<T>(&self, attribute: i32, ty: i32, values: &mut [T]) -> Result<usize, CudaError> {
        let mut count = 0;
        let room = values.len() as i64;
        let place = if values.is_empty() { ptr::null_mut() } else { values.as_mut_ptr().cast() };
        // SAFETY: the descriptor lives, and there is room for as many elements as are asked for.
        let status = unsafe {
            (self.functions.get_attribute)(self.raw, attribute, ty, room, &mut count, place)
        };
        self.functions.check(status, "reading an attribute")?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn number(&self, attribute: i32) -> Result<i64, CudaError> {
        let mut value = [0i64];
        // SAFETY: numbers are `i64`.
        unsafe { self.get(attribute, names::TYPE_INT64, &mut value) }.map(|_| value[0])
    }

    /// Whether a list of enumerators holds one.
    pub(super) fn has(&self, attribute: i32, ty: i32, wanted: i32) -> Result<bool, CudaError> {
        let mut values = [0i32; 32];
        // SAFETY: enumerators are `i32`.
        let count = unsafe { self.get(attribute, ty, &mut values) }?;
        Ok(values[..count.min(values.len())].contains(&wanted))
    }

    /// The one descriptor of an attribute.
    pub(super) fn only(&self, attribute: i32, kind: i32) -> Result<Descriptor, CudaError> {
        let made = Descriptor::new(self.functions, kind)?;
        // SAFETY: descriptors are pointers; the library fills the one that it is given.
        unsafe { self.get(attribute, names::TYPE_BACKEND_DESCRIPTOR, &mut [made.raw]) }?;
        Ok(made)
    }

    /// Fills descriptors of a kind with those of an attribute: all that there are.
    pub(super) fn filled(&self, attribute: i32, kind: i32) -> Result<Vec<Descriptor>, CudaError> {
        let ty = names::TYPE_BACKEND_DESCRIPTOR;
        // SAFETY: descriptors are pointers; the library fills those that it is given.
        let count = unsafe { self.get::<Raw>(attribute, ty, &mut []) }?;
        let made: Result<Vec<Descriptor>, CudaError> =
            (0..count).map(|_| Descriptor::new(self.functions, kind)).collect();
        let mut made = made?;
        let mut raw: Vec<Raw> = made.iter().map(Descriptor::raw).collect();
        // SAFETY: as above.
        let count = unsafe { self.get(attribute, ty, &mut raw) }?;
        made.truncate(count);
        Ok(made)
    }
}
