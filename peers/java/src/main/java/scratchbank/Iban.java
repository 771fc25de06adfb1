package scratchbank;

import java.security.SecureRandom;
import java.util.concurrent.ThreadLocalRandom;

/** Account numbers and tokens. */
final class Iban {
  static final String CASH = "cash";
  private static final SecureRandom SECRETS = new SecureRandom();

  private Iban() {}

  /** The check digits of ISO 13616, by ISO 7064 MOD 97-10: 98 minus the remainder. */
  private static String checkDigits(String account) {
    int remainder = 0;
    for (char digit : ("24251423" + account + "232100").toCharArray()) {
      remainder = (remainder * 10 + digit - '0') % 97;
    }
    int check = 98 - remainder;
    return check < 10 ? "0" + check : Integer.toString(check);
  }

  /** True for an iban in the format of this bank with correct check digits. */
  static boolean isWellFormed(String iban) {
    if (iban.length() != 18 || !iban.startsWith("NL") || !iban.startsWith("OPEN", 4)) {
      return false;
    }
    for (int at = 8; at < 18; at++) {
      if (iban.charAt(at) < '0' || iban.charAt(at) > '9') {
        return false;
      }
    }
    return iban.startsWith(checkDigits(iban.substring(8)), 2);
  }

  static String generate() {
    String account = String.format("0%09d", ThreadLocalRandom.current().nextInt(1_000_000_000));
    return "NL" + checkDigits(account) + "OPEN" + account;
  }

  /** 20 random digits of the system's random number generator. */
  static String generateToken() {
    StringBuilder token = new StringBuilder(20);
    for (int digit = 0; digit < 20; digit++) {
      token.append((char) ('0' + SECRETS.nextInt(10)));
    }
    return token.toString();
  }
}
