//! The place of a row version.

use bytes::{BufMut, BytesMut};
use postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};
use std::error::Error;

/// The place of a row version in its table, `ctid`, where PostgreSQL finds it without an index.
///
/// A search by key visits all versions of a row that an old snapshot may still see. So a row that
/// is updated 100 times per second would become slower with each second of a long backup. An update
/// moves the row to another place. The place of a dead version may be used by another row, so a
/// statement must compare the key as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tid {
    block: u32,
    item: u16,
}

impl Tid {
    /// The place `item` in the page `block`.
    pub fn new(block: u32, item: u16) -> Self {
        Self { block, item }
    }

    /// The number of the version in its page.
    pub fn item(self) -> u16 {
        self.item
    }
}

impl<'a> FromSql<'a> for Tid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let (block, item) = raw.split_first_chunk().ok_or("a tid has six bytes")?;
        let item = item.try_into()?;
        Ok(Self { block: u32::from_be_bytes(*block), item: u16::from_be_bytes(item) })
    }

    accepts!(TID);
}

impl ToSql for Tid {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_u32(self.block);
        out.put_u16(self.item);
        Ok(IsNull::No)
    }

    accepts!(TID);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tid_has_six_bytes() {
        let tid = Tid::new(0x0102_0304, 0x0506);
        let mut out = BytesMut::new();
        tid.to_sql(&Type::TID, &mut out).unwrap();
        assert_eq!(out[..], [1, 2, 3, 4, 5, 6]);
        assert_eq!(Tid::from_sql(&Type::TID, &out).unwrap(), tid);
        for wrong in [&out[..5], &[0; 7]] {
            assert!(Tid::from_sql(&Type::TID, wrong).is_err());
        }
    }
}
