//! Compression codecs of record batches.

use crate::types::Compression;
#[cfg(any(feature = "gzip", feature = "lz4", feature = "zstd"))]
use std::io::Read;
#[cfg(any(feature = "gzip", feature = "lz4"))]
use std::io::Write;

/// Compresses the records of a batch. Snappy is written without the block format of the Java
/// client: all clients read both.
///
/// # Errors
/// The codec is not compiled in.
pub fn compress(compression: Compression, records: &[u8]) -> Result<Vec<u8>, String> {
    match compression {
        Compression::None => Ok(records.to_vec()),
        #[cfg(feature = "gzip")]
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            let compressed = encoder.write_all(records).and_then(|()| encoder.finish());
            compressed.map_err(|err| format!("gzip: {err}"))
        }
        #[cfg(feature = "snappy")]
        Compression::Snappy => {
            snap::raw::Encoder::new().compress_vec(records).map_err(|err| format!("snappy: {err}"))
        }
        #[cfg(feature = "lz4")]
        Compression::Lz4 => {
            // The Java client reads only independent blocks of at most 64 KiB.
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            let info =
                FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(records).map_err(|err| format!("lz4: {err}"))?;
            encoder.finish().map_err(|err| format!("lz4: {err}"))
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            // ruzstd has no other level.
            use ruzstd::encoding::{CompressionLevel, compress_to_vec};
            Ok(compress_to_vec(records, CompressionLevel::Fastest))
        }
        #[allow(unreachable_patterns, reason = "with all features no variant is left")]
        _ => Err(not_built_in(compression.name())),
    }
}

/// Decompresses the records of a batch into at most `bytes_max` bytes. `codec` is the compression
/// type in the attributes of the batch.
///
/// # Errors
/// The codec is unknown or not compiled in, or the bytes are malformed or exceed the limit.
pub fn decompress(codec: u8, compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    match codec {
        #[cfg(feature = "gzip")]
        1 => read(flate2::read::MultiGzDecoder::new(compressed), "gzip", bytes_max),
        #[cfg(feature = "snappy")]
        2 => snappy(compressed, bytes_max),
        #[cfg(feature = "lz4")]
        3 => read(lz4_flex::frame::FrameDecoder::new(compressed), "lz4", bytes_max),
        #[cfg(feature = "zstd")]
        4 => match ruzstd::decoding::StreamingDecoder::new(compressed) {
            Ok(decoder) => read(decoder, "zstd", bytes_max),
            Err(err) => Err(format!("zstd: {err}")),
        },
        _ => {
            let _ = (compressed, bytes_max);
            let known = ["gzip", "snappy", "lz4", "zstd"].get(usize::from(codec).wrapping_sub(1));
            Err(match known {
                Some(name) => not_built_in(name),
                None => format!("unknown compression codec {codec}"),
            })
        }
    }
}

fn not_built_in(codec: &str) -> String {
    format!("this program was built without {codec}")
}

#[cfg(any(feature = "gzip", feature = "lz4", feature = "zstd"))]
fn read(decoder: impl Read, name: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut decompressed = Vec::new();
    let limit = bytes_max as u64 + 1;
    decoder.take(limit).read_to_end(&mut decompressed).map_err(|err| format!("{name}: {err}"))?;
    if decompressed.len() > bytes_max { Err(too_large(name, bytes_max)) } else { Ok(decompressed) }
}

#[cfg(any(feature = "gzip", feature = "lz4", feature = "snappy", feature = "zstd"))]
fn too_large(name: &str, bytes_max: usize) -> String {
    format!("{name}: decompressed records exceed {bytes_max} bytes")
}

/// Decompresses Snappy, or the block format of the Java client: a header of 16 bytes, and blocks
/// after their lengths.
#[cfg(feature = "snappy")]
fn snappy(compressed: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    const MAGIC: &[u8] = b"\x82SNAPPY\0";
    let mut decompressed = Vec::new();
    let mut block = |compressed: &[u8]| {
        let bytes =
            snap::raw::decompress_len(compressed).map_err(|err| format!("snappy: {err}"))?;
        if decompressed.len() + bytes > bytes_max {
            return Err(too_large("snappy", bytes_max));
        }
        let block = snap::raw::Decoder::new().decompress_vec(compressed);
        decompressed.extend(block.map_err(|err| format!("snappy: {err}"))?);
        Ok(())
    };
    if compressed.starts_with(MAGIC) {
        let mut rest = compressed.get(16..).ok_or("snappy: truncated header")?;
        while let Some((length, tail)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            let (compressed, tail) =
                tail.split_at_checked(length).ok_or("snappy: truncated block")?;
            block(compressed)?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err("snappy: truncated block".to_owned());
        }
    } else {
        block(compressed)?;
    }
    Ok(decompressed)
}
