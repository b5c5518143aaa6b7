// A CUDA driver for machines without one: it starts and knows no GPU. For tests of what colac says then, and for those
// of what NVIDIA's libraries prepare for GPUs that are described to them.
//
// Built with INCOMPLETE it lacks a function, as an old driver does.

#include <stddef.h>

#define NO_DEVICE 100

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
#ifndef INCOMPLETE
int cuDeviceGetCount(int* count) { *count = 0; return 0; }
#endif
int cuGetErrorString(int status, const char** text) { *text = "no device"; return 0; }

#define ANSWERS(name) int name(void) { return NO_DEVICE; }
ANSWERS(cuCtxSetCurrent)
ANSWERS(cuDeviceGet)
ANSWERS(cuDeviceGetAttribute)
ANSWERS(cuDeviceGetName)
ANSWERS(cuDevicePrimaryCtxRelease_v2)
ANSWERS(cuDevicePrimaryCtxRetain)
ANSWERS(cuDeviceTotalMem_v2)
ANSWERS(cuEventCreate)
ANSWERS(cuEventDestroy_v2)
ANSWERS(cuEventElapsedTime_v2)
ANSWERS(cuEventRecord)
ANSWERS(cuEventSynchronize)
ANSWERS(cuFuncSetAttribute)
ANSWERS(cuGraphDestroy)
ANSWERS(cuGraphExecDestroy)
ANSWERS(cuGraphInstantiateWithFlags)
ANSWERS(cuGraphLaunch)
ANSWERS(cuLaunchKernel)
ANSWERS(cuMemAllocHost_v2)
ANSWERS(cuMemAlloc_v2)
ANSWERS(cuMemFreeHost)
ANSWERS(cuMemFree_v2)
ANSWERS(cuMemGetInfo_v2)
ANSWERS(cuMemcpyDtoH_v2)
ANSWERS(cuMemcpyDtoDAsync_v2)
ANSWERS(cuMemcpyDtoHAsync_v2)
ANSWERS(cuMemcpyHtoDAsync_v2)
ANSWERS(cuMemcpyHtoD_v2)
ANSWERS(cuMemsetD8Async)
ANSWERS(cuModuleGetFunction)
ANSWERS(cuModuleLoadData)
ANSWERS(cuModuleUnload)
ANSWERS(cuStreamBeginCapture_v2)
ANSWERS(cuStreamCreate)
ANSWERS(cuStreamDestroy_v2)
ANSWERS(cuStreamEndCapture)
ANSWERS(cuStreamSynchronize)
ANSWERS(cuStreamWaitEvent)

// What cuDNN and NVRTC look for besides when they prepare kernels; nothing of it is used for a GPU that is not there.
int cuGetErrorName(int status, const char** text) { *text = "NO_DEVICE"; return 0; }
int cuGetExportTable(const void** table, const void* id) { *table = NULL; return NO_DEVICE; }
ANSWERS(cuCtxGetCurrent)
ANSWERS(cuCtxGetLimit)
ANSWERS(cuCtxPopCurrent)
ANSWERS(cuCtxPushCurrent)
ANSWERS(cuGetProcAddress)
ANSWERS(cuGetProcAddress_v2)
ANSWERS(cuKernelGetAttribute)
ANSWERS(cuKernelGetFunction)
ANSWERS(cuKernelSetAttribute)
ANSWERS(cuLaunchCooperativeKernel)
ANSWERS(cuLaunchKernelEx)
ANSWERS(cuLibraryGetKernel)
ANSWERS(cuLibraryLoadData)
ANSWERS(cuLibraryLoadFromFile)
ANSWERS(cuLibraryUnload)
ANSWERS(cuLinkAddData)
ANSWERS(cuLinkComplete)
ANSWERS(cuLinkCreate)
ANSWERS(cuLinkDestroy)
ANSWERS(cuOccupancyMaxPotentialClusterSize)
ANSWERS(cuStreamGetCtx)
ANSWERS(cuTensorMapEncodeIm2col)
ANSWERS(cuTensorMapEncodeTiled)
