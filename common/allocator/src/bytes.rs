//! memcpy, memmove and memcmp for x86-64 in the place of musl's. Its memcpy starts a string instruction for every copy, some 30 cycles
//! before the first byte, and its memcmp compares a byte at a time; most of what the services copy and compare is a field of 4 to 40 bytes.
//! docs/decisions/0015-checksum-and-copies.md has the figures. The other architectures' memcpy in musl has no such start.
//!
//! In assembly because a compiler may turn a loop that copies into a call of memcpy, which this is.

use std::arch::naked_asm;
use std::ffi::c_int;

/// Copies `length` bytes from `from` to `to` and returns `to` (ISO C 7.24.2.1). They may overlap if `to` is the lower.
///
/// Both ends are read before what is between them is written where a length of up to 32 allows it; above that 16 bytes at a time, from 512 on
/// by the string instruction.
///
/// # Safety
/// `from` must be readable and `to` writable for that many bytes.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 3f",
        "movups xmm1, [rsi + rdx - 16]",
        "cmp rdx, 32",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        // More than 32: the last 16 were read before anything is written.
        "2: cmp rdx, 512",
        "jae 6f",
        "lea r8, [rdi + rdx - 16]",
        "5: movups xmm0, [rsi]",
        "movups [rdi], xmm0",
        "add rsi, 16",
        "add rdi, 16",
        "cmp rdi, r8",
        "jb 5b",
        "movups [r8], xmm1",
        "ret",
        "6: mov r9, [rsi + rdx - 8]",
        "lea r8, [rdi + rdx - 8]",
        "mov rcx, rdx",
        "shr rcx, 3",
        "rep movsq",
        "mov [r8], r9",
        "ret",
        // Less than 16.
        "3: cmp edx, 8",
        "jb 4f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "4: cmp edx, 4",
        "jb 7f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        // Up to 3: the first, the middle, the last.
        "7: test edx, edx",
        "je 8f",
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi + rdx - 1]",
        "mov r9d, edx",
        "shr r9d, 1",
        "movzx r10d, byte ptr [rsi + r9]",
        "mov [rdi], cl",
        "mov [rdi + r9], r10b",
        "mov [rdi + rdx - 1], r8b",
        "8: ret",
    )
}

/// As [`memcpy`], for parts that may overlap in either way (ISO C 7.24.2.2). musl's needs musl's memcpy, and the linker takes one of each.
///
/// # Safety
/// As of [`memcpy`].
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        // Upwards over itself is what memcpy can't, unless it is short enough to be read as a whole first.
        "mov rax, rdi",
        "sub rax, rsi",
        "cmp rax, rdx",
        "jae {memcpy}",
        "cmp rdx, 32",
        "jbe {memcpy}",
        "mov rax, rdi",
        "movups xmm1, [rsi]",
        "2: movups xmm0, [rsi + rdx - 16]",
        "movups [rdi + rdx - 16], xmm0",
        "sub rdx, 16",
        "cmp rdx, 16",
        "ja 2b",
        "movups [rdi], xmm1",
        "ret",
        memcpy = sym memcpy,
    )
}

/// Less than 0, 0 or more as the first of `length` bytes that differ, unsigned, is the lesser in `one`, none does, or it is the greater (ISO C
/// 7.24.4.1).
///
/// # Safety
/// Both must be readable for that many bytes.
#[unsafe(naked)]
#[cfg_attr(target_env = "musl", unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> c_int {
    naked_asm!(
        "cmp rdx, 8",
        "jb 4f",
        // The last 8, which may have been among those compared before.
        "lea r8, [rdx - 8]",
        "xor r9d, r9d",
        "2: mov rax, [rdi + r9]",
        "mov rcx, [rsi + r9]",
        "cmp rax, rcx",
        "jne 3f",
        "add r9, 8",
        "cmp r9, r8",
        "jb 2b",
        "mov rax, [rdi + r8]",
        "mov rcx, [rsi + r8]",
        "cmp rax, rcx",
        "jne 3f",
        "xor eax, eax",
        "ret",
        // The first byte in memory decides: it must be the highest.
        "3: bswap rax",
        "bswap rcx",
        "cmp rax, rcx",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
        "4: xor r9d, r9d",
        "xor eax, eax",
        "5: cmp r9, rdx",
        "je 6f",
        "movzx eax, byte ptr [rdi + r9]",
        "movzx ecx, byte ptr [rsi + r9]",
        "inc r9",
        "sub eax, ecx",
        "je 5b",
        "6: ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than each of the ways that lengths take.
    const LENGTHS: usize = 1100;

    fn numbered(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    #[test]
    fn every_length_is_copied_and_nothing_beside_it() {
        let from = numbered(LENGTHS + 64);
        for length in 0..LENGTHS {
            for (start, aim) in [(0, 0), (1, 0), (3, 5), (16, 9)] {
                let mut to = vec![0xee; LENGTHS + 64];
                let mut wanted = to.clone();
                wanted[aim..aim + length].copy_from_slice(&from[start..start + length]);
                // SAFETY: both vectors are longer.
                let answer =
                    unsafe { memcpy(to.as_mut_ptr().add(aim), from.as_ptr().add(start), length) };
                assert_eq!(answer, to[aim..].as_mut_ptr(), "{length} bytes");
                assert_eq!(to, wanted, "{length} bytes from {start} to {aim}");
            }
        }
    }

    #[test]
    fn bytes_move_over_themselves() {
        for length in 0..LENGTHS {
            let distances = [0, 1, 2, 7, 8, 9, 15, 16, 17, 40];
            for (from, to) in distances.into_iter().flat_map(|by| [(by, 0), (0, by)]) {
                let mut moved = numbered(LENGTHS + 64);
                let mut wanted = moved.clone();
                wanted.copy_within(from..from + length, to);
                let start = moved.as_mut_ptr();
                // SAFETY: the vector is longer.
                let answer = unsafe { memmove(start.add(to), start.add(from), length) };
                assert_eq!(answer, moved[to..].as_mut_ptr(), "{length} bytes");
                assert_eq!(moved, wanted, "{length} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn the_first_difference_decides() {
        for length in 0..100 {
            let one = numbered(length);
            // SAFETY: both are as long as that.
            let compare = |one: &[u8], other: &[u8]| unsafe {
                memcmp(one.as_ptr(), other.as_ptr(), length).signum()
            };
            assert_eq!(compare(&one, &one.clone()), 0);
            for place in 0..length {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut other = one.clone();
                    other[place] = value;
                    // What comes after it says the opposite.
                    for after in &mut other[place + 1..] {
                        *after = !value;
                    }
                    for (a, b) in [(&one, &other), (&other, &one)] {
                        assert_eq!(
                            compare(a, b),
                            a.cmp(b) as c_int,
                            "{length} bytes, differing at {place}"
                        );
                    }
                }
            }
        }
    }
}
