//! SASL: PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677), as far as a client of Kafka has part in them.

use std::fmt;

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// By telling the password to whoever answers: for networks that nobody listens on.
    Plain,
    /// Without telling the password, and the broker proves that it knows it; needs the feature `scram`.
    ScramSha256,
    /// The same with longer hashes.
    ScramSha512,
}

impl Mechanism {
    /// By the names that Kafka has for them; those that this program has.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("PLAIN", Self::Plain),
        #[cfg(feature = "scram")]
        ("SCRAM-SHA-256", Self::ScramSha256),
        #[cfg(feature = "scram")]
        ("SCRAM-SHA-512", Self::ScramSha512),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Who a client is. Its `Debug` leaves out the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How that is proved.
    pub mechanism: Mechanism,
    /// Name; any text without NUL.
    pub user: String,
    /// Password; any text without NUL. It is taken as it is: Kafka doesn't prepare it as RFC 4013 says either.
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

/// One conversation with a broker.
pub enum Conversation {
    Plain,
    #[cfg(feature = "scram")]
    Scram(scram::Scram),
}

impl Conversation {
    /// Its beginning, and the first message.
    ///
    /// # Errors
    /// The system has no randomness to give, or this program no such mechanism; in words.
    pub fn begin(sasl: &Sasl) -> Result<(Self, Vec<u8>), String> {
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

    /// What to say to the broker's message; nothing once both are satisfied.
    ///
    /// # Errors
    /// The broker says what it may not, or can't prove that it knows the password; in words.
    pub fn answer(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            // It has nothing to say: the reply's error code is all.
            Self::Plain => {
                let _ = message;
                Ok(None)
            }
            #[cfg(feature = "scram")]
            Self::Scram(scram) => scram.answer(message),
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

    /// Rounds of hashing that a broker may ask for. Fewer are easy on whoever guesses passwords (RFC 7677, section 4), and more cost
    /// this client half a second of a core; Kafka's own brokers ask for 4,096 to 16,384.
    const ROUNDS: RangeInclusive<u32> = 4096..=500_000;
    /// Longest message of a broker, bytes; Kafka's take some hundred.
    const MESSAGE_BYTES_MAX: usize = 4096;
    /// "n,,": no channel is bound, and the user acts for himself. In base64, as it is repeated.
    const HEADER: &str = "n,,";
    const HEADER_AGAIN: &str = "c=biws";

    /// A conversation from the client's side.
    pub struct Scram {
        hash: Hash,
        password: String,
        nonce: String,
        /// The first message behind its header.
        first: String,
        /// How the broker proves that it knows the password, once it has been asked to.
        proof: Option<Vec<u8>>,
    }

    /// A new nonce: 144 bits.
    pub fn nonce() -> Result<String, String> {
        let mut bytes = [0; 18];
        SysRng.try_fill_bytes(&mut bytes).map_err(|err| format!("no randomness: {err}"))?;
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
                first: format!("n={user},r={nonce}"),
                proof: None,
            }
        }

        pub fn first(&self) -> Vec<u8> {
            format!("{HEADER}{}", self.first).into_bytes()
        }

        pub fn answer(&mut self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
            let message = Some(message)
                .filter(|it| it.len() <= MESSAGE_BYTES_MAX)
                .and_then(|it| std::str::from_utf8(it).ok())
                .ok_or("its message is none of SCRAM")?;
            if let Some(words) = message.strip_prefix("e=") {
                return Err(format!("it says {words:?}"));
            }
            match &self.proof {
                None => self.prove(message).map(Some),
                Some(proof) => {
                    let verifier = message.split(',').next().and_then(|it| it.strip_prefix("v="));
                    let given = verifier.and_then(|it| BASE64.decode(it).ok());
                    if given.is_some_and(|given| equal(&given, proof)) {
                        Ok(None)
                    } else {
                        Err("it can't prove that it knows the password".to_owned())
                    }
                }
            }
        }

        /// The last message, to the broker's first one.
        fn prove(&mut self, message: &str) -> Result<Vec<u8>, String> {
            let mut parts = message.split(',');
            let mut part = |name: &str| {
                parts
                    .next()
                    .and_then(|it| it.strip_prefix(name))
                    .ok_or_else(|| format!("its first message has no {name}"))
            };
            let (nonce, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
            if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
                return Err("its nonce does not continue ours".to_owned());
            }
            let salt = BASE64.decode(salt).map_err(|_| "its salt is no base64")?;
            let rounds =
                rounds.parse().ok().filter(|it| ROUNDS.contains(it)).ok_or_else(|| {
                    format!("it asks for {rounds} rounds, and not for {ROUNDS:?}")
                })?;
            let hash = self.hash;
            let salted = hash.salted(self.password.as_bytes(), &salt, rounds);
            let client_key = hash.mac(&salted, b"Client Key");
            let without_proof = format!("{HEADER_AGAIN},r={nonce}");
            let said = format!("{},{message},{without_proof}", self.first);
            let signature = hash.mac(&hash.digest(&client_key), said.as_bytes());
            let proof: Vec<u8> = client_key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
            self.proof = Some(hash.mac(&hash.mac(&salted, b"Server Key"), said.as_bytes()));
            Ok(format!("{without_proof},p={}", BASE64.encode(proof)).into_bytes())
        }
    }

    /// In the same time, wherever they differ.
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
                let mac = mac.expect("a key of HMAC has any length");
                mac.chain_update(message).finalize().into_bytes().to_vec()
            }
            match self {
                Self::Sha256 => of::<Hmac<Sha256>>(key, message),
                Self::Sha512 => of::<Hmac<Sha512>>(key, message),
            }
        }

        /// Hi() of RFC 5802.
        fn salted(self, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
            match self {
                Self::Sha256 => {
                    let mut salted = vec![0; 32];
                    pbkdf2_hmac::<Sha256>(password, salt, rounds, &mut salted);
                    salted
                }
                Self::Sha512 => {
                    let mut salted = vec![0; 64];
                    pbkdf2_hmac::<Sha512>(password, salt, rounds, &mut salted);
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

        fn said(step: Result<Option<Vec<u8>>, String>) -> String {
            match step {
                Ok(Some(message)) => String::from_utf8(message).unwrap(),
                Ok(None) => "done".to_owned(),
                Err(words) => words,
            }
        }

        /// RFC 7677, section 3.
        const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
        const FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        const VERIFIER: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

        fn conversation() -> Scram {
            scram(Mechanism::ScramSha256, "user", "pencil", NONCE)
        }

        #[test]
        fn a_conversation_goes_as_in_rfc_7677() {
            let mut client = conversation();
            assert_eq!(client.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
            assert_eq!(
                said(client.answer(FIRST.as_bytes())),
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                 p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
            );
            assert_eq!(said(client.answer(VERIFIER.as_bytes())), "done");
        }

        #[test]
        fn a_broker_that_does_not_know_the_password_is_found_out() {
            for (verifier, words) in [
                ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "can't prove"),
                ("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95A==", "can't prove"),
                ("v=", "can't prove"),
                ("", "can't prove"),
                ("e=unknown-user", "\"unknown-user\""),
            ] {
                let mut client = conversation();
                said(client.answer(FIRST.as_bytes()));
                let words_said = said(client.answer(verifier.as_bytes()));
                assert!(words_said.contains(words), "{verifier}: {words_said}");
            }
        }

        #[test]
        fn a_first_message_that_asks_for_too_much_or_little_is_refused() {
            for (message, words) in [
                (FIRST.replace("4096", "4095"), "4095 rounds"),
                (FIRST.replace("4096", "500001"), "500001 rounds"),
                (FIRST.replace("4096", "99999999999"), "99999999999 rounds"),
                (FIRST.replace("4096", "-1"), "-1 rounds"),
                (FIRST.replace("rOprN", "sOprN"), "continue"),
                (FIRST.replace("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", ""), "continue"),
                (FIRST.replace("W22Z", "W!2Z"), "base64"),
                (format!("m=ext,{FIRST}"), "no r="),
                ("e=other-error".to_owned(), "other-error"),
                ("\u{1}".repeat(5000), "none of SCRAM"),
                (String::new(), "no r="),
            ] {
                let words_said = said(conversation().answer(message.as_bytes()));
                assert!(words_said.contains(words), "{message}: {words_said}");
            }
            assert!(said(conversation().answer(&[0xff])).contains("none of SCRAM"));
        }

        #[test]
        fn names_may_have_what_separates() {
            let client = scram(Mechanism::ScramSha512, "a=b,c", "", "x");
            assert_eq!(client.first(), b"n,,n=a=3Db=2Cc,r=x");
        }

        /// There is no RFC with a conversation by SHA-512: these are the words of the one above by Python's hashlib and hmac.
        #[test]
        fn a_conversation_by_sha_512_goes_as_python_has_it() {
            let mut client = scram(Mechanism::ScramSha512, "user", "pencil", NONCE);
            assert_eq!(said(client.answer(FIRST.as_bytes())), SHA_512_FINAL);
            assert_eq!(said(client.answer(SHA_512_VERIFIER.as_bytes())), "done");
        }

        const SHA_512_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=gMGXRcevScNtxZ6/8lQYpGtnsNAc3mGcmNomv+xnoOMw+3R2xNJdMNnzMlTN8PPC6wdp6dybEmDYXYTxwnYPJQ==";
        const SHA_512_VERIFIER: &str = "v=ZQnYEgWQMFmmsM8aQMF0nDDCy/AgCzkwk8CmMZYcMg0vSVlKDanekLtifDSeVGT4+5ZxXnJq199RVG2rR7N7Zw==";

        #[test]
        fn no_nonce_comes_twice() {
            let (one, other) = (nonce().unwrap(), nonce().unwrap());
            assert!(one != other && one.len() == 24 && !one.contains(','));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let (user, password) = ("ann".to_owned(), "hunter2".to_owned());
        let printed = format!("{:?}", Sasl { mechanism: Mechanism::Plain, user, password });
        assert!(printed.contains("ann") && !printed.contains("hunter2"), "{printed}");
    }
}
