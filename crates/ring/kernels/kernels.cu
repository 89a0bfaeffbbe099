// Everything that goes into the shipped fatbin. Built by scripts/build-kernels.
#include "convert.cu"
#include "extend.cu"
#include "elementwise.cu"
#include "hoisted.cu"
#include "key_switch.cu"
#include "ntt.cu"
