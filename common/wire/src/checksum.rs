//! CRC-32C, the checksum of record batches, by the instructions that x86-64 has for it. Elsewhere the crate `crc32c` does it, which would
//! bring 16 kB of tables here.

use std::arch::x86_64::{
    _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi64_si128, _mm_cvtsi128_si64,
};

/// Castagnoli's polynomial, its highest power in the lowest bit, as all here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Bytes that are summed up beside others: an instruction takes three cycles, and three can be under way.
const PART: usize = 1024;

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq") {
        #[allow(unsafe_code, reason = "instructions that not every processor has")]
        // SAFETY: This one has them.
        unsafe {
            by_instructions(bytes)
        }
    } else {
        by_table(bytes)
    }
}

#[target_feature(enable = "sse4.2,pclmulqdq")]
fn by_instructions(bytes: &[u8]) -> u32 {
    let mut sum = u64::from(u32::MAX);
    let (parts, rest) = bytes.as_chunks::<PART>();
    let (threes, last) = parts.as_chunks::<3>();
    for [first, second, third] in threes {
        let (mut behind, mut behind_that) = (0, 0);
        for ((a, b), c) in words(first).iter().zip(words(second)).zip(words(third)) {
            sum = _mm_crc32_u64(sum, u64::from_le_bytes(*a));
            behind = _mm_crc32_u64(behind, u64::from_le_bytes(*b));
            behind_that = _mm_crc32_u64(behind_that, u64::from_le_bytes(*c));
        }
        const ONE: u32 = power(8 * PART - 33);
        const TWO: u32 = power(16 * PART - 33);
        sum = followed(sum, TWO) ^ followed(behind, ONE) ^ behind_that;
    }
    for part in [last.as_flattened(), rest] {
        let (words, bytes) = part.as_chunks::<8>();
        for word in words {
            sum = _mm_crc32_u64(sum, u64::from_le_bytes(*word));
        }
        for byte in bytes {
            sum = u64::from(_mm_crc32_u8(sum as u32, *byte));
        }
    }
    !(sum as u32)
}

/// Eight bytes at a time.
fn words(part: &[u8; PART]) -> &[[u8; 8]] {
    part.as_slice().as_chunks().0
}

/// The sum once as many zeros follow as `power` says: x^(bits - 33), because the product is a bit short of 64, and the instruction
/// shifts by 32. Source: V. Gopal et al., Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction (Intel, 2011).
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn followed(sum: u64, power: u32) -> u64 {
    let number = |it: u64| _mm_cvtsi64_si128(it as i64);
    let product = _mm_clmulepi64_si128::<0>(number(sum), number(u64::from(power)));
    _mm_crc32_u64(0, _mm_cvtsi128_si64(product) as u64)
}

/// x^n modulo the polynomial.
const fn power(n: usize) -> u32 {
    let mut power = 1 << 31;
    let mut i = 0;
    while i < n {
        power = times_x(power);
        i += 1;
    }
    power
}

const fn times_x(it: u32) -> u32 {
    (it >> 1) ^ if it & 1 == 1 { POLYNOMIAL } else { 0 }
}

/// For processors of before 2010.
fn by_table(bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 8 * 256 {
            table[i / 8] = times_x(if i % 8 == 0 { i as u32 / 8 } else { table[i / 8] });
            i += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every length around those where another part of it works, and at every place.
    #[test]
    fn it_is_the_checksum_of_the_crate_crc32c() {
        let bytes: Vec<u8> = (0..8 * PART as u32).map(|i| ((i * i) >> 3) as u8).collect();
        for length in (0..40).chain((1..8).flat_map(|it| it * PART - 20..it * PART + 20)) {
            for from in 0..8 {
                let bytes = &bytes[from..from + length];
                let expected = ::crc32c::crc32c(bytes);
                assert_eq!(crc32c(bytes), expected, "{length} from {from}");
                assert_eq!(by_table(bytes), expected, "{length} from {from}");
            }
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of the catalogue");
    }
}
