// A cuDNN that is too old: for tests of what colac says then.

unsigned long cudnnGetVersion(void) { return 90100; }
