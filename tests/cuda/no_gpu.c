// A CUDA driver for machines without one: it starts and knows no GPU. For tests of what colac says then.
//
// Built with INCOMPLETE it lacks a function, as an old driver does.

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
