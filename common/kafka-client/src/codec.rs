//! Packs and unpacks the records of a batch.

use crate::Compression;
#[cfg(any(feature = "gzip", feature = "lz4", feature = "zstd"))]
use std::io::Read;
#[cfg(any(feature = "gzip", feature = "lz4"))]
use std::io::Write;

/// Packs the records of a batch. Snappy as such, without the blocks of Java's client: every client reads both.
///
/// # Errors
/// In words.
pub fn pack(compression: Compression, records: &[u8]) -> Result<Vec<u8>, String> {
    match compression {
        Compression::None => Ok(records.to_vec()),
        #[cfg(feature = "gzip")]
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            let packed = encoder.write_all(records).and_then(|()| encoder.finish());
            packed.map_err(|err| format!("gzip: {err}"))
        }
        #[cfg(feature = "snappy")]
        Compression::Snappy => {
            snap::raw::Encoder::new().compress_vec(records).map_err(|err| format!("snappy: {err}"))
        }
        #[cfg(feature = "lz4")]
        Compression::Lz4 => {
            // Blocks of their own and no larger than this: Java's client reads no others.
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            let info =
                FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(records).map_err(|err| format!("lz4: {err}"))?;
            encoder.finish().map_err(|err| format!("lz4: {err}"))
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            // The one level that ruzstd has.
            use ruzstd::encoding::{CompressionLevel, compress_to_vec};
            Ok(compress_to_vec(records, CompressionLevel::Fastest))
        }
        #[allow(unreachable_patterns, reason = "with all features there is none left")]
        _ => Err(without(compression.name())),
    }
}

/// Unpacks the records of a batch whose attributes name codec `codec`, into at most `bytes_max` bytes.
///
/// # Errors
/// In words.
pub fn unpack(codec: u8, packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    match codec {
        #[cfg(feature = "gzip")]
        1 => read(flate2::read::MultiGzDecoder::new(packed), "gzip", bytes_max),
        #[cfg(feature = "snappy")]
        2 => snappy(packed, bytes_max),
        #[cfg(feature = "lz4")]
        3 => read(lz4_flex::frame::FrameDecoder::new(packed), "lz4", bytes_max),
        #[cfg(feature = "zstd")]
        4 => match ruzstd::decoding::StreamingDecoder::new(packed) {
            Ok(decoder) => read(decoder, "zstd", bytes_max),
            Err(err) => Err(format!("zstd: {err}")),
        },
        _ => {
            let _ = (packed, bytes_max);
            let known = ["gzip", "snappy", "lz4", "zstd"].get(usize::from(codec).wrapping_sub(1));
            Err(match known {
                Some(name) => without(name),
                None => format!("codec {codec} is not known"),
            })
        }
    }
}

fn without(codec: &str) -> String {
    format!("this program was built without {codec}")
}

#[cfg(any(feature = "gzip", feature = "lz4", feature = "zstd"))]
fn read(decoder: impl Read, name: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    let limit = bytes_max as u64 + 1;
    decoder.take(limit).read_to_end(&mut unpacked).map_err(|err| format!("{name}: {err}"))?;
    if unpacked.len() > bytes_max { Err(too_large(name, bytes_max)) } else { Ok(unpacked) }
}

#[cfg(any(feature = "gzip", feature = "lz4", feature = "snappy", feature = "zstd"))]
fn too_large(name: &str, bytes_max: usize) -> String {
    format!("{name}: unpacked it is larger than {bytes_max} bytes")
}

/// Snappy as such, or in the blocks that Java's clients write: a head of 16 bytes, then each block behind its length.
#[cfg(feature = "snappy")]
fn snappy(packed: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    const HEAD: &[u8] = b"\x82SNAPPY\0";
    let mut unpacked = Vec::new();
    let mut block = |packed: &[u8]| {
        let bytes = snap::raw::decompress_len(packed).map_err(|err| format!("snappy: {err}"))?;
        if unpacked.len() + bytes > bytes_max {
            return Err(too_large("snappy", bytes_max));
        }
        let block = snap::raw::Decoder::new().decompress_vec(packed);
        unpacked.extend(block.map_err(|err| format!("snappy: {err}"))?);
        Ok(())
    };
    if packed.starts_with(HEAD) {
        let mut rest = packed.get(16..).ok_or("snappy: its head is cut")?;
        while let Some((length, behind)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            let (packed, behind) =
                behind.split_at_checked(length).ok_or("snappy: a block is cut")?;
            block(packed)?;
            rest = behind;
        }
        if !rest.is_empty() {
            return Err("snappy: a block is cut".to_owned());
        }
    } else {
        block(packed)?;
    }
    Ok(unpacked)
}
