// jemalloc, in place of the C library's malloc: requests are allocated on the data port's threads and freed on workers,
// which costs it less, and what a burst leaves goes back to the system by itself.
#include <jemalloc/jemalloc.h>

extern "C" {
// Read by jemalloc before main(). Freed pages go back within some ten seconds, on a thread of its own.
const char* malloc_conf = "background_thread:true,dirty_decay_ms:10000,muzzy_decay_ms:0";
}
