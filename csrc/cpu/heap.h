#pragma once

namespace ivan_fast::cpu {

// Makes the C library's malloc take blocks of 2 MiB and more straight from the system and give them back when they are
// freed. By default glibc raises that bound up to 32 MiB as such blocks come and go; the tensors of a walk through a
// chain then share one heap with smaller ones that outlive them, and it grows with every block of the chain (measured
// at 1024x1024 pixels: 560 MB where 210 MB are in use). For the whole process. Does nothing, and returns false,
// elsewhere than under glibc, or where the user has tuned malloc (MALLOC_* or GLIBC_TUNABLES in the environment).
bool return_large_blocks();

}  // namespace ivan_fast::cpu
