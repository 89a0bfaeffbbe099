//! Exact RNS polynomial arithmetic in Z_Q[X]/(X^N+1).
