//! Products by cuBLASLt: layouts, choice of algorithm, calls.
//!
//! Rows are this project's order and columns the library's, so a product is handed over as `cᵀ = bᵀ aᵀ`. For every distinct
//! shape the library's candidates are timed once and the fastest is kept, in a file of the user's cache folder for the
//! device and the library's version: another choice could change bits. Only candidates that always add in the same order
//! are asked for. Owns all calls of the library. Must not know operations.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr;

use colac_plan::DType;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys as driver;

use crate::cuda::driver::compile::{cache_folder, private_folder};
use crate::cuda::driver::gpu::{GpuDescription, check};
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Factor, Product, WriteMode};
use crate::cuda::memory::PRODUCTS;

/// Candidates that are timed for a shape.
const CANDIDATES: usize = 12;

/// Products of fewer FLOPs are not worth timing.
const TIMED_FLOPS: u64 = 1 << 26;

/// Algorithms, as the library writes them down, by what a choice depends on.
type Choices = BTreeMap<String, [u64; 8]>;

/// Reads choices; a file that is missing or damaged holds none.
fn read(file: &Path) -> Choices {
    let text = std::fs::read_to_string(file).ok();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Choices as a file holds them.
fn text(choices: &Choices) -> String {
    serde_json::to_string_pretty(choices).expect("texts and numbers can be written")
}

/// Writes choices beside the file and renames them into its place.
fn write(file: &Path, choices: &Choices) -> std::io::Result<()> {
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&beside, text(choices))?;
    std::fs::rename(&beside, file)
}

/// The library with its workspace and what has been chosen.
pub(crate) struct Products {
    handle: sys::cublasLtHandle_t,
    stream: driver::CUstream,
    workspace: u64,
    constants: u64,
    file: Option<PathBuf>,
    /// What the user's cache knows for this device.
    known: Choices,
    /// Where the choices of a run are kept, and which they were when it began.
    run: Option<(PathBuf, Choices)>,
    /// What the products of this plan use.
    used: Choices,
    changed: bool,
    events: [driver::CUevent; 2],
}

/// A product with its descriptors.
pub(crate) struct PreparedProduct {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    addresses: [u64; 3],
    /// Where the factor of the old contents lies.
    beta: u64,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Drop for PreparedProduct {
    fn drop(&mut self) {
        // SAFETY: made by `Products::prepare`, destroyed once.
        unsafe {
            for layout in self.layouts {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.operation);
        }
    }
}

fn failed(error: result::CublasError) -> CudaError {
    CudaError::Products(error.to_string())
}

fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F32 | DType::I32 => sys::cudaDataType::CUDA_R_32F,
    }
}

/// The largest power of two, up to 256, that divides an address.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Products {
    /// Bytes of the library's workspace, beside the plan's memory.
    pub(super) const WORKSPACE: u64 = PRODUCTS;
    /// Bytes of constants.
    pub(super) const CONSTANTS: u64 = 256;

    /// 0 and 1, which factors are read from.
    pub(super) fn constants() -> [f32; 2] {
        [0.0, 1.0]
    }

    /// Opens the library.
    pub(super) fn new(
        device: &GpuDescription,
        stream: driver::CUstream,
        workspace: u64,
        constants: u64,
        run: Option<&Path>,
    ) -> Result<Products, CudaError> {
        let handle = result::create_handle().map_err(failed)?;
        let mut events = [ptr::null_mut(); 2];
        for event in &mut events {
            // SAFETY: the context is current.
            check(unsafe { driver::cuEventCreate(event, 0) }, "creating an event")?;
        }
        // SAFETY: the library is open.
        let version = unsafe { sys::cublasLtGetVersion() };
        let name: String = (device.name.chars())
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let file = cache_folder()
            .map(|folder| folder.join("products").join(format!("{name}-{version}.json")));
        let known = file.as_deref().map(read).unwrap_or_default();
        let run = run.map(|file| (file.to_owned(), read(file)));
        let (used, changed) = (Choices::new(), false);
        Ok(Products {
            handle,
            stream,
            workspace,
            constants,
            file,
            known,
            run,
            used,
            changed,
            events,
        })
    }

    /// The algorithm chosen before: by the run, else by any run on such a device.
    fn chosen(&self, key: &str) -> Option<[u64; 8]> {
        let of_the_run = self.run.as_ref().and_then(|(_, choices)| choices.get(key));
        of_the_run.or_else(|| self.known.get(key)).copied()
    }

    /// Resolves a product; `None` where the library does not take it.
    pub(super) fn prepare(
        &mut self,
        product: &Product,
    ) -> Result<Option<PreparedProduct>, CudaError> {
        let Product { a, b, c, write } = product;
        let real = [a, b, c].into_iter().all(|factor| factor.dtype.is_float());
        let (rows, inner) = a.extents();
        let columns = b.extents().1;
        if !real || a.dtype != b.dtype || rows == 0 || columns == 0 || inner == 0 {
            return Ok(None);
        }
        if a.dtype == DType::F32 && c.dtype != DType::F32 {
            return Ok(None);
        }
        let beta = match write {
            WriteMode::Overwrite => self.constants,
            WriteMode::Add => self.constants + 4,
            WriteMode::AddIf(condition) => *condition,
        };
        let mut prepared = self.descriptors(a, b, c, beta)?;
        let key = key(product);
        if let Some(data) = self.chosen(&key) {
            prepared.algorithm = sys::cublasLtMatmulAlgo_t { data };
            if self.accepts(&prepared) {
                self.used.insert(key, data);
                return Ok(Some(prepared));
            }
        }
        let candidates = self.candidates(&prepared, product)?;
        let Some(first) = candidates.first() else { return Ok(None) };
        prepared.algorithm = *first;
        if 2 * rows * columns * inner >= TIMED_FLOPS && candidates.len() > 1 {
            let mut best = f32::INFINITY;
            for candidate in candidates {
                let chosen = prepared.algorithm;
                prepared.algorithm = candidate;
                match self.time(&prepared) {
                    Ok(time) if time < best => best = time,
                    _ => prepared.algorithm = chosen,
                }
            }
            self.known.insert(key.clone(), prepared.algorithm.data);
            self.changed = true;
        }
        self.used.insert(key, prepared.algorithm.data);
        Ok(Some(prepared))
    }

    fn descriptors(
        &self,
        a: &Factor,
        b: &Factor,
        c: &Factor,
        beta: u64,
    ) -> Result<PreparedProduct, CudaError> {
        let real = sys::cudaDataType::CUDA_R_32F;
        let operation =
            result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, real)
                .map_err(failed)?;
        let set = |attribute, value: i32| {
            // SAFETY: the descriptor lives; the attribute is a 32-bit number.
            unsafe {
                result::set_matmul_desc_attribute(
                    operation,
                    attribute,
                    ptr::from_ref(&value).cast(),
                    size_of::<i32>(),
                )
            }
            .map_err(failed)
        };
        use sys::cublasLtMatmulDescAttributes_t as D;
        use sys::cublasLtPointerMode_t as Mode;
        // CUBLAS_OP_N and CUBLAS_OP_T.
        let turned = |factor: &Factor| i32::from(factor.transposed);
        set(D::CUBLASLT_MATMUL_DESC_POINTER_MODE, Mode::CUBLASLT_POINTER_MODE_DEVICE as i32)?;
        set(D::CUBLASLT_MATMUL_DESC_TRANSA, turned(b))?;
        set(D::CUBLASLT_MATMUL_DESC_TRANSB, turned(a))?;
        let layout = |factor: &Factor| {
            let Factor { dtype, rows, columns, stride, .. } = *factor;
            let stride = if rows <= 1 { stride.max(columns) } else { stride };
            result::create_matrix_layout(data_type(dtype), columns, rows, stride as i64)
                .map_err(failed)
        };
        Ok(PreparedProduct {
            operation,
            layouts: [layout(b)?, layout(a)?, layout(c)?],
            addresses: [b.address, a.address, c.address],
            beta,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        })
    }

    /// Algorithms that the library proposes, the one it thinks best first.
    fn candidates(
        &self,
        prepared: &PreparedProduct,
        product: &Product,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CudaError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as P;
        let preference = result::create_matmul_pref().map_err(failed)?;
        let set = |attribute, value: *const c_void, size| {
            // SAFETY: the preference lives; the caller gives the attribute's size.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, value, size) }
                .map_err(failed)
        };
        let workspace = Products::WORKSPACE as usize;
        set(
            P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            ptr::from_ref(&workspace).cast(),
            size_of::<usize>(),
        )?;
        // Partial sums of a split product are added by a kernel of their own, in order, in f32.
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set(
            P::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            ptr::from_ref(&scheme).cast(),
            size_of::<u32>(),
        )?;
        for (attribute, address) in [
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.b.address),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.a.address),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.c.address),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.c.address),
        ] {
            let bytes = alignment(address);
            set(attribute, ptr::from_ref(&bytes).cast(), size_of::<u32>())?;
        }
        // SAFETY: plain old data, for which zeros are a value.
        let empty: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let mut found = [empty; CANDIDATES];
        let mut count = 0;
        let [x, y, z] = prepared.layouts;
        // SAFETY: descriptors live, and there is room for as many results as are asked for.
        let status = unsafe {
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                prepared.operation,
                x,
                y,
                z,
                z,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &mut count,
            );
            let _ = result::destroy_matmul_pref(preference);
            status
        };
        if status != sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
            return Ok(Vec::new());
        }
        let found = found.iter().take(count as usize);
        let usable = found.filter(|found| {
            found.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
                && found.workspaceSize <= workspace
        });
        Ok(usable.map(|found| found.algo).collect())
    }

    /// Whether the library takes an algorithm that was chosen before.
    fn accepts(&self, prepared: &PreparedProduct) -> bool {
        // SAFETY: plain old data, for which zeros are a value.
        let mut found: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        let [x, y, z] = prepared.layouts;
        // SAFETY: descriptors live.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                prepared.operation,
                x,
                y,
                z,
                z,
                &prepared.algorithm,
                &mut found,
            )
        };
        status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS
            && found.workspaceSize <= Products::WORKSPACE as usize
    }

    /// Milliseconds of a product: the shortest of a few runs.
    fn time(&self, prepared: &PreparedProduct) -> Result<f32, CudaError> {
        self.run(prepared)?;
        let mut shortest = f32::INFINITY;
        for _ in 0..3 {
            let mut milliseconds = 0.0;
            // SAFETY: events and stream live.
            unsafe {
                check(driver::cuEventRecord(self.events[0], self.stream), "timing a product")?;
                self.run(prepared)?;
                check(driver::cuEventRecord(self.events[1], self.stream), "timing a product")?;
                check(driver::cuEventSynchronize(self.events[1]), "timing a product")?;
                let [from, to] = self.events;
                let status = driver::cuEventElapsedTime_v2(&mut milliseconds, from, to);
                check(status, "timing a product")?;
            }
            shortest = shortest.min(milliseconds);
        }
        Ok(shortest)
    }

    /// Computes a product on the stream.
    pub(super) fn run(&self, product: &PreparedProduct) -> Result<(), CudaError> {
        let [a, b, c] = product.addresses.map(|address| address as *mut c_void);
        let [x, y, z] = product.layouts;
        // SAFETY: descriptors live, addresses lie in the device's allocations, and the workspace has its size.
        unsafe {
            result::matmul(
                self.handle,
                product.operation,
                (self.constants + 4) as *const c_void,
                product.beta as *const c_void,
                a,
                x,
                b,
                y,
                c,
                z,
                c,
                z,
                &product.algorithm,
                self.workspace as *mut c_void,
                Products::WORKSPACE as usize,
                self.stream.cast(),
            )
        }
        .map_err(failed)
    }

    /// What the products of this plan use, as the file of a run holds it.
    pub(super) fn choices(&self) -> String {
        text(&self.used)
    }

    /// Writes down what has been chosen, now that a plan's products are prepared: for the run, whose bits depend on it,
    /// and for others on such a device, which need not time them again.
    ///
    /// # Errors
    /// If the run's file cannot be written. Without the other, choices are made anew.
    pub(super) fn save(&mut self) -> Result<(), CudaError> {
        if let Some((file, before)) = &self.run
            && *before != self.used
        {
            write(file, &self.used).map_err(|error| CudaError::Choices {
                file: file.display().to_string(),
                message: error.to_string(),
            })?;
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.changed) {
            if let Some(folder) = file.parent() {
                private_folder(folder);
            }
            let _ = write(file, &self.known);
            self.changed = false;
        }
        Ok(())
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: made by `Products::new`, destroyed once.
        unsafe {
            for event in self.events {
                let _ = driver::cuEventDestroy_v2(event);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}

/// The library's version, as it numbers them: 130100 for 13.1.0.
pub(super) fn version() -> Result<usize, CudaError> {
    crate::cuda::driver::libraries::cublaslt()?;
    // SAFETY: the library is open.
    Ok(unsafe { sys::cublasLtGetVersion() })
}

/// All that a choice depends on.
fn key(product: &Product) -> String {
    let factor = |factor: &Factor| {
        let turned = if factor.transposed { "ᵀ" } else { "" };
        let Factor { dtype, rows, columns, stride, address, .. } = *factor;
        format!("{dtype}[{rows}, {columns}]{turned} step {stride} align {}", alignment(address))
    };
    let write = match product.write {
        WriteMode::Overwrite => "=",
        WriteMode::Add => "+=",
        WriteMode::AddIf(_) => "?=",
    };
    format!("{} {write} {} · {}", factor(&product.c), factor(&product.a), factor(&product.b))
}
