//! The scalar `Long`, for amounts and counts beyond 32 bits.

use juniper::parser::{ParseError, ScalarToken, Token};
use juniper::{GraphQLScalar, ParseScalarResult, Scalar, ScalarValue};

/// Maximum of an integer that a JSON number carries exactly: 2^53 - 1.
const EXACT_MAX: f64 = 9_007_199_254_740_991.0;

/// A signed 64-bit integer. In results it is a String of decimal digits, as in "-1050", since
/// JavaScript rounds numbers above 2^53. As an argument it is such a String or an Int; a variable
/// may also be a JSON number of an integer below 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, GraphQLScalar)]
#[graphql(to_output_with = digits)]
pub struct Long(pub i64);

impl Long {
    fn from_input<S: ScalarValue>(value: &Scalar<S>) -> Result<Self, String> {
        let number = if let Some(text) = value.try_as_str() {
            text.parse().ok()
        } else if let Some(int) = value.try_to_int() {
            Some(int.into())
        } else {
            // juniper reads a JSON number above 32 bits as a Float.
            value.try_to_float().and_then(exact)
        };
        number.map(Self).ok_or_else(|| format!("{value} is not a 64-bit integer"))
    }

    fn parse_token<S: ScalarValue>(token: ScalarToken<'_>) -> ParseScalarResult<S> {
        match token {
            ScalarToken::String(text) => Ok(text.parse()?.into_owned().into()),
            // A scalar value of juniper has no integer above 32 bits, but a text has all digits.
            ScalarToken::Int(digits) => Ok(digits.to_owned().into()),
            ScalarToken::Float(_) => Err(ParseError::unexpected_token(Token::Scalar(token))),
        }
    }
}

fn digits(long: &Long) -> String {
    long.0.to_string()
}

/// The integer `number`; `None` if it has a fraction or may have been rounded.
fn exact(number: f64) -> Option<i64> {
    let is_exact = number.fract() == 0.0 && number.abs() <= EXACT_MAX;
    is_exact.then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use juniper::{DefaultScalarValue, FromScalarValue, ToScalarValue};

    fn read(json: &str) -> Option<i64> {
        let value: DefaultScalarValue = serde_json::from_str(json).unwrap();
        Long::from_scalar_value(&value).ok().map(|long| long.0)
    }

    #[test]
    fn long_is_written_as_decimal_text() {
        for (number, text) in [
            (0, "0"),
            (-1050, "-1050"),
            (100_000_000_000_000_001, "100000000000000001"),
            (i64::MIN, "-9223372036854775808"),
        ] {
            let written: DefaultScalarValue = Long(number).to_scalar_value();
            assert_eq!(written, DefaultScalarValue::String(text.to_owned()));
            assert_eq!(Long::from_scalar_value(&written).unwrap(), Long(number));
        }
    }

    #[test]
    fn variable_is_a_text_or_an_exact_number() {
        for (json, number) in [
            ("5", Some(5)),
            ("\"5\"", Some(5)),
            ("-2147483648", Some(i32::MIN.into())),
            ("2147483648", Some(1 << 31)),
            ("9007199254740991", Some((1 << 53) - 1)),
            ("-9007199254740991", Some(1 - (1 << 53))),
            ("9007199254740992", None),
            ("-9007199254740992", None),
            ("\"9007199254740993\"", Some((1 << 53) + 1)),
            ("\"9223372036854775807\"", Some(i64::MAX)),
            ("\"9223372036854775808\"", None),
            ("1.5", None),
            ("1e300", None),
            ("true", None),
            ("\"\"", None),
            ("\" 5\"", None),
            ("\"1e3\"", None),
            ("\"0x5\"", None),
        ] {
            assert_eq!(read(json), number, "{json}");
        }
    }

    #[test]
    fn literal_keeps_all_digits() {
        let literal = |token| Long::parse_token::<DefaultScalarValue>(token);
        let digits = literal(ScalarToken::Int("9223372036854775807")).unwrap();
        assert_eq!(Long::from_scalar_value(&digits).unwrap(), Long(i64::MAX));
        let too_large = literal(ScalarToken::Int("9223372036854775808")).unwrap();
        assert!(Long::from_scalar_value(&too_large).is_err());
        assert!(literal(ScalarToken::Float("5.0")).is_err());
    }
}
