//! The client side of SASL PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677).

use std::fmt;

/// A SASL mechanism. SCRAM does not send the password, and the broker proves that it has the stored
/// key of the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// PLAIN (RFC 4616). Sends the password in clear text.
    Plain,
    /// SCRAM-SHA-256 (RFC 7677). Feature `scram`.
    ScramSha256,
    /// SCRAM-SHA-512 (KIP-84). Feature `scram`.
    ScramSha512,
}

impl Mechanism {
    /// The mechanisms that are compiled in, by their names.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("PLAIN", Self::Plain),
        #[cfg(feature = "scram")]
        ("SCRAM-SHA-256", Self::ScramSha256),
        #[cfg(feature = "scram")]
        ("SCRAM-SHA-512", Self::ScramSha512),
    ];

    /// The name in `sasl.mechanism` of other clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// SASL credentials. The output of `Debug` leaves out the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    /// A mechanism that is enabled on the broker's port.
    pub mechanism: Mechanism,
    /// User name. It must not contain NUL.
    pub user: String,
    /// Password. It must not contain NUL. It is not normalized (RFC 4013), as in Kafka.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mechanism, user, password: _ } = self;
        f.debug_struct("Sasl")
            .field("mechanism", mechanism)
            .field("user", user)
            .finish_non_exhaustive()
    }
}

/// An authentication exchange with a broker.
pub enum Exchange {
    Plain,
    #[cfg(feature = "scram")]
    Scram(scram::Scram),
}

impl Exchange {
    /// Begins an exchange and returns its first message.
    ///
    /// # Errors
    /// The random number generator of the system failed, or the mechanism is not compiled in.
    pub fn start(sasl: &Sasl) -> Result<(Self, Vec<u8>), String> {
        match sasl.mechanism {
            Mechanism::Plain => {
                Ok((Self::Plain, format!("\0{}\0{}", sasl.user, sasl.password).into_bytes()))
            }
            #[cfg(feature = "scram")]
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                let scram = scram::Scram::new(sasl, &scram::nonce()?);
                let first = scram.first();
                Ok((Self::Scram(scram), first))
            }
            #[cfg(not(feature = "scram"))]
            it => Err(format!("this program was built without {}", it.name())),
        }
    }

    /// Returns the next message, or `None` at the end of the exchange.
    ///
    /// # Errors
    /// The server message is invalid, or its signature is wrong.
    pub fn respond(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            // PLAIN has no server message: the result is the error code of the response.
            Self::Plain => {
                let _ = message;
                Ok(None)
            }
            #[cfg(feature = "scram")]
            Self::Scram(scram) => scram.respond(message),
        }
    }
}

#[cfg(feature = "scram")]
pub mod scram {
    use super::{Mechanism, Sasl};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use hmac::{Hmac, KeyInit, Mac};
    use pbkdf2::pbkdf2_hmac;
    use rand::TryRng;
    use rand::rngs::SysRng;
    use sha2::{Digest, Sha256, Sha512};
    use std::ops::RangeInclusive;

    /// Accepted iteration counts. Fewer make it cheap to guess the password (RFC 7677, section 4).
    /// The maximum takes half a second of a core. Kafka stores users with 4,096 to 16,384.
    const ITERATIONS: RangeInclusive<u32> = 4096..=500_000;
    /// Limit of a server message, in bytes. Kafka's messages have a few hundred bytes.
    const MESSAGE_BYTES_MAX: usize = 4096;
    /// GS2 header: no channel binding, no authorization identity.
    const GS2_HEADER: &str = "n,,";
    /// Its base64, in the client's final message.
    const CHANNEL_BINDING: &str = "c=biws";

    /// A SCRAM exchange.
    pub struct Scram {
        hash: Hash,
        password: String,
        nonce: String,
        /// `client-first-message-bare`.
        first_bare: String,
        /// The signature that the server's final message must have. `None` until the client's final
        /// message is sent.
        server_signature: Option<Vec<u8>>,
    }

    /// A nonce of 144 random bits.
    pub fn nonce() -> Result<String, String> {
        let mut bytes = [0; 18];
        SysRng.try_fill_bytes(&mut bytes).map_err(|err| format!("read random numbers: {err}"))?;
        Ok(BASE64.encode(bytes))
    }

    impl Scram {
        pub fn new(sasl: &Sasl, nonce: &str) -> Self {
            let user = sasl.user.replace('=', "=3D").replace(',', "=2C");
            Self {
                hash: match sasl.mechanism {
                    Mechanism::ScramSha512 => Hash::Sha512,
                    _ => Hash::Sha256,
                },
                password: sasl.password.clone(),
                nonce: nonce.to_owned(),
                first_bare: format!("n={user},r={nonce}"),
                server_signature: None,
            }
        }

        pub fn first(&self) -> Vec<u8> {
            format!("{GS2_HEADER}{}", self.first_bare).into_bytes()
        }

        pub fn respond(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
            let message = Some(message)
                .filter(|it| it.len() <= MESSAGE_BYTES_MAX)
                .and_then(|it| std::str::from_utf8(it).ok())
                .ok_or("the server message is not SCRAM")?;
            if let Some(error) = message.strip_prefix("e=") {
                return Err(format!("server error {error:?}"));
            }
            let Some(expected) = &self.server_signature else {
                return self.final_message(message).map(Some);
            };
            let verifier = message.split(',').next().and_then(|it| it.strip_prefix("v="));
            let signature = verifier.and_then(|it| BASE64.decode(it).ok());
            if signature.is_some_and(|it| equal(&it, expected)) {
                Ok(None)
            } else {
                Err("the broker cannot prove that it knows the password".to_owned())
            }
        }

        /// The client's final message in response to the server's first message.
        fn final_message(&mut self, message: &str) -> Result<Vec<u8>, String> {
            let mut parts = message.split(',');
            let mut part = |name: &str| {
                parts
                    .next()
                    .and_then(|it| it.strip_prefix(name))
                    .ok_or_else(|| format!("the server's first message has no {name}"))
            };
            let (nonce, salt, iterations) = (part("r=")?, part("s=")?, part("i=")?);
            if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
                return Err("the server's nonce does not begin with the client's".to_owned());
            }
            let salt = BASE64.decode(salt).map_err(|_| "the salt is not base64")?;
            let accepted = |it: &u32| ITERATIONS.contains(it);
            let iterations =
                iterations.parse().ok().filter(accepted).ok_or_else(|| {
                    format!("{iterations} iterations are outside of {ITERATIONS:?}")
                })?;
            let hash = self.hash;
            let salted = hash.salted(self.password.as_bytes(), &salt, iterations);
            let client_key = hash.mac(&salted, b"Client Key");
            let without_proof = format!("{CHANNEL_BINDING},r={nonce}");
            let auth_message = format!("{},{message},{without_proof}", self.first_bare);
            let signature = hash.mac(&hash.digest(&client_key), auth_message.as_bytes());
            let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
            let server_key = hash.mac(&salted, b"Server Key");
            self.server_signature = Some(hash.mac(&server_key, auth_message.as_bytes()));
            Ok(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
        }
    }

    /// Compares in constant time.
    fn equal(a: &[u8], b: &[u8]) -> bool {
        a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }

    #[derive(Clone, Copy)]
    enum Hash {
        Sha256,
        Sha512,
    }

    impl Hash {
        fn digest(self, bytes: &[u8]) -> Vec<u8> {
            match self {
                Self::Sha256 => Sha256::digest(bytes).to_vec(),
                Self::Sha512 => Sha512::digest(bytes).to_vec(),
            }
        }

        fn mac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
            fn of<M: KeyInit + Mac>(key: &[u8], message: &[u8]) -> Vec<u8> {
                let mac = <M as KeyInit>::new_from_slice(key);
                let mac = mac.expect("HMAC accepts keys of any length");
                mac.chain_update(message).finalize().into_bytes().to_vec()
            }
            match self {
                Self::Sha256 => of::<Hmac<Sha256>>(key, message),
                Self::Sha512 => of::<Hmac<Sha512>>(key, message),
            }
        }

        /// The function Hi() of RFC 5802.
        fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
            match self {
                Self::Sha256 => {
                    let mut salted = vec![0; 32];
                    pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut salted);
                    salted
                }
                Self::Sha512 => {
                    let mut salted = vec![0; 64];
                    pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut salted);
                    salted
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn scram(mechanism: Mechanism, user: &str, password: &str, nonce: &str) -> Scram {
            let (user, password) = (user.to_owned(), password.to_owned());
            Scram::new(&Sasl { mechanism, user, password }, nonce)
        }

        fn text_of(step: Result<Option<Vec<u8>>, String>) -> String {
            match step {
                Ok(Some(message)) => String::from_utf8(message).unwrap(),
                Ok(None) => "done".to_owned(),
                Err(why) => why,
            }
        }

        /// The example of RFC 7677, section 3.
        const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
        const FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        const VERIFIER: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

        fn exchange() -> Scram {
            scram(Mechanism::ScramSha256, "user", "pencil", NONCE)
        }

        #[test]
        fn exchange_follows_rfc_7677() {
            let mut client = exchange();
            assert_eq!(client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
            assert_eq!(
                text_of(client.respond(FIRST.as_bytes())),
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            );
            assert_eq!(text_of(client.respond(VERIFIER.as_bytes())), "done");
        }

        #[test]
        fn broker_without_the_password_is_refused() {
            for (verifier, expected) in [
                ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "cannot prove"),
                ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95A==", "cannot prove"),
                ("v=", "cannot prove"),
                ("", "cannot prove"),
                ("e=unknown-user", "\"unknown-user\""),
            ] {
                let mut client = exchange();
                text_of(client.respond(FIRST.as_bytes()));
                let text = text_of(client.respond(verifier.as_bytes()));
                assert!(text.contains(expected), "{verifier}: {text}");
            }
        }

        #[test]
        fn invalid_first_server_message_is_refused() {
            for (message, expected) in [
                (FIRST.replace("4096", "4095"), "4095 iterations"),
                (FIRST.replace("4096", "500001"), "500001 iterations"),
                (FIRST.replace("4096", "99999999999"), "99999999999 iterations"),
                (FIRST.replace("4096", "-1"), "-1 iterations"),
                (FIRST.replace("rOprN", "sOprN"), "does not begin with"),
                (FIRST.replace("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", ""), "does not begin with"),
                (FIRST.replace("W22Z", "W!2Z"), "base64"),
                (format!("m=ext,{FIRST}"), "no r="),
                ("e=other-error".to_owned(), "other-error"),
                ("\u{1}".repeat(5000), "not SCRAM"),
                (String::new(), "no r="),
            ] {
                let text = text_of(exchange().respond(message.as_bytes()));
                assert!(text.contains(expected), "{message}: {text}");
            }
            assert!(text_of(exchange().respond(&[0xff])).contains("not SCRAM"));
        }

        #[test]
        fn separators_in_user_names_are_escaped() {
            let client = scram(Mechanism::ScramSha512, "a=b,c", "", "x");
            assert_eq!(client.first(), b"n,,n=a=3Db=2Cc,r=x");
        }

        /// No RFC has an example with SHA-512. The expected values are those of the same exchange,
        /// computed with the Python modules hashlib and hmac.
        #[test]
        fn sha_512_exchange_matches_python() {
            let mut client = scram(Mechanism::ScramSha512, "user", "pencil", NONCE);
            assert_eq!(text_of(client.respond(FIRST.as_bytes())), SHA_512_FINAL);
            assert_eq!(text_of(client.respond(SHA_512_VERIFIER.as_bytes())), "done");
        }

        const SHA_512_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=gMGXRcevScNtxZ6/8lQYpGtnsNAc3mGcmNomv+xnoOMw+3R2xNJdMNnzMlTN8PPC6wdp6dybEmDYXYTxw\
             nYPJQ==";
        const SHA_512_VERIFIER: &str = "v=ZQnYEgWQMFmmsM8aQMF0nDDCy/AgCzkwk8CmMZYcMg0vSVlKDanek\
             LtifDSeVGT4+5ZxXnJq199RVG2rR7N7Zw==";

        #[test]
        fn nonces_differ() {
            let (one, other) = (nonce().unwrap(), nonce().unwrap());
            assert!(one != other && one.len() == 24 && !one.contains(','));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_not_printed() {
        let (user, password) = ("ann".to_owned(), "hunter2".to_owned());
        let printed = format!("{:?}", Sasl { mechanism: Mechanism::Plain, user, password });
        assert!(printed.contains("ann") && !printed.contains("hunter2"), "{printed}");
    }
}
