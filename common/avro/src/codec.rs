//! A codec for Avro data with our own schemas. It needs no intermediate tree of values.

use bank::money::Cents;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, Atype, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, Heartbeat, MoneyTransferConfirmed, MoneyTransferFailed,
};
use bank::timestamp::Timestamp;
use bank::topology::{self, Topic};
use uuid::Uuid;

/// A record type of the bank, the values of one topic.
pub trait Record: Sized {
    /// The topic that contains these values.
    const TOPIC: Topic;

    /// Appends the Avro datum, encoded with the schema of [`Self::TOPIC`].
    fn write(&self, datum: &mut Vec<u8>);

    /// Decodes a whole datum that was encoded with the schema of [`Self::TOPIC`]. The error is the
    /// reason why it is undecodable.
    fn read(datum: &[u8]) -> Result<Self, String>;
}

macro_rules! records {
    ($($record:ident in $topic:ident: $($field:ident)+;)+) => {$(
        impl Record for $record {
            const TOPIC: Topic = topology::$topic;

            fn write(&self, datum: &mut Vec<u8>) {
                $(self.$field.write(datum);)+
            }

            fn read(datum: &[u8]) -> Result<Self, String> {
                let mut rest = datum;
                // Rust evaluates the fields of a struct expression in the order in which they are
                // written, which is the order of the schema.
                let record = Self {
                    $($field: Field::read(&mut rest)
                        .map_err(|reason| format!(concat!(stringify!($field), ": {}"), reason))?,)+
                };
                at_end(rest)?;
                Ok(record)
            }
        }
    )+};
}

// Fields in the order of the schemas.
records! {
    Heartbeat in HEARTBEAT: beat;
    ConfirmAccountCreation in CONFIRM_ACCOUNT_CREATION: id a_type;
    AccountCreationConfirmed in ACCOUNT_CREATION_CONFIRMED: id iban token a_type;
    AccountCreationFailed in ACCOUNT_CREATION_FAILED: id reason;
    ConfirmMoneyTransfer in CONFIRM_MONEY_TRANSFER: id token amount from to description;
    MoneyTransferConfirmed in MONEY_TRANSFER_CONFIRMED: id;
    MoneyTransferFailed in MONEY_TRANSFER_FAILED: id reason;
    BalanceChanged in BALANCE_CHANGED:
        iban new_balance changed_by from_to description transfer_id sequence decided_at;
}

/// The type of a field of our records.
pub trait Field: Sized {
    fn write(&self, datum: &mut Vec<u8>);
    /// Decodes the field and removes it from the front of `rest`.
    fn read(rest: &mut &[u8]) -> Result<Self, String>;
}

impl Field for i64 {
    fn write(&self, datum: &mut Vec<u8>) {
        // Zigzag encoding: small positive and negative numbers need few bytes.
        let mut left = ((self << 1) ^ (self >> 63)) as u64;
        while left >= 0x80 {
            datum.push(left as u8 | 0x80);
            left >>= 7;
        }
        datum.push(left as u8);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = take(rest, 1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err("number has more than 64 bits".to_owned())
    }
}

impl Field for Cents {
    fn write(&self, datum: &mut Vec<u8>) {
        self.get().write(datum);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        i64::read(rest).map(Self::new)
    }
}

impl Field for String {
    fn write(&self, datum: &mut Vec<u8>) {
        (self.len() as i64).write(datum);
        datum.extend_from_slice(self.as_bytes());
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        read_text(rest).map(str::to_owned)
    }
}

impl Field for Uuid {
    fn write(&self, datum: &mut Vec<u8>) {
        datum.extend_from_slice(self.as_bytes());
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        Self::from_slice(take(rest, 16)?).map_err(|err| err.to_string())
    }
}

impl Field for Timestamp {
    fn write(&self, datum: &mut Vec<u8>) {
        self.millis().write(datum);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        i64::read(rest).map(Self::from_millis)
    }
}

/// The union of null and a type.
impl<F: Field> Field for Option<F> {
    fn write(&self, datum: &mut Vec<u8>) {
        i64::from(self.is_some()).write(datum);
        if let Some(value) = self {
            value.write(datum);
        }
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        match i64::read(rest)? {
            0 => Ok(None),
            1 => F::read(rest).map(Some),
            _ => Err("union has no such variant".to_owned()),
        }
    }
}

impl Field for Atype {
    fn write(&self, datum: &mut Vec<u8>) {
        (*self as i64).write(datum);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        match i64::read(rest)? {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Manual),
            _ => Err("enum has no such symbol".to_owned()),
        }
    }
}

/// Removes `length` bytes from the front of `rest`.
///
/// No reason contains a number of the datum: it could be part of a token.
pub fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest
        .split_at_checked(length)
        .ok_or_else(|| format!("truncated: {} bytes left, more needed", rest.len()))?;
    *rest = left;
    Ok(taken)
}

pub fn read_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = i64::read(rest)?;
    take(rest, usize::try_from(length).map_err(|_| "negative length".to_owned())?)
}

pub fn read_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, String> {
    std::str::from_utf8(read_bytes(rest)?).map_err(|err| format!("not UTF-8: {err}"))
}

pub fn at_end(rest: &[u8]) -> Result<(), String> {
    if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes after the datum", rest.len())) }
}
