#!/usr/bin/env python3
"""Prints the first word of every limb of the seeded uniform sampler for the basis of tests/common (N = 16),
seed 00 01 .. 1f, domain 3. ChaCha20 written out from RFC 8439, with the original 64-bit counter and nonce."""
import struct

N = 16


def is_prime(n):
    return all(pow(b, n - 1, n) == 1 for b in (2, 3, 5, 7, 11, 13, 17)) and all(n % d for d in range(2, 2000))


def primes_below(bits, count):
    p, found = ((1 << bits) - 1) // (2 * N) * 2 * N + 1, []
    while len(found) < count:
        if p < 1 << bits and is_prime(p):
            found.append(p)
        p -= 2 * N
    return found


def block(key, counter, nonce):
    state = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key))
    state += [counter & 0xFFFFFFFF, counter >> 32, nonce & 0xFFFFFFFF, nonce >> 32]
    x = state[:]

    def rotl(v, n):
        return ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF

    def quarter(a, b, c, d):
        for (i, j, k, r) in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[i] = (x[i] + x[j]) & 0xFFFFFFFF
            x[k] = rotl(x[k] ^ x[i], r)

    for _ in range(10):
        for lanes in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                      (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(*lanes)
    return struct.pack("<16I", *((a + b) & 0xFFFFFFFF for a, b in zip(x, state)))


primes = primes_below(50, 2) + primes_below(40, 2) + primes_below(28, 2) + primes_below(49, 2) + primes_below(45, 1)
for index, p in enumerate(primes):
    stream = b"".join(block(bytes(range(32)), (index << 40) // 16 + i, 3) for i in range(8))
    candidates = (w & ((1 << p.bit_length()) - 1) for w in struct.unpack("<64Q", stream))
    print(next(c for c in candidates if c < p), end=",\n")
