// cuBLASLt for machines without it: cuDNN wants to know its version before it prepares attention, and nothing else of it.

unsigned long cublasLtGetVersion(void) { return 130100; }
