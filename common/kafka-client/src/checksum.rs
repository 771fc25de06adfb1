//! CRC-32C, the checksum of record batches, by the instruction that x86-64 has for it. Elsewhere the crate `crc32c` does it, which would
//! bring 16 kB of tables here.

use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};

/// Castagnoli's polynomial, its highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The checksum of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    if is_x86_feature_detected!("sse4.2") {
        #[allow(unsafe_code, reason = "an instruction that not every processor has")]
        // SAFETY: This one has it.
        unsafe {
            by_instruction(bytes)
        }
    } else {
        by_table(bytes)
    }
}

/// Eight bytes in three cycles.
#[target_feature(enable = "sse4.2")]
fn by_instruction(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks();
    let sum = words
        .iter()
        .fold(u64::from(u32::MAX), |sum, word| _mm_crc32_u64(sum, u64::from_le_bytes(*word)));
    !rest.iter().fold(sum as u32, |sum, byte| _mm_crc32_u8(sum, *byte))
}

/// For processors of before 2010.
fn by_table(bytes: &[u8]) -> u32 {
    static TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 8 * 256 {
            let it = if i % 8 == 0 { i as u32 / 8 } else { table[i / 8] };
            table[i / 8] = (it >> 1) ^ if it & 1 == 1 { POLYNOMIAL } else { 0 };
            i += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_of_the_crate_crc32c() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        for length in (0..40).chain([900]) {
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
