package io.github.reshard.checkpoint.json;

import io.github.reshard.checkpoint.RefusedException;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads JSON (RFC 8259), strictly: no comments, no trailing commas, nothing behind the value, no
 * key twice in an object.
 */
public final class Json {
  private static final int DEEPEST = 64;

  private final String file;
  private final String text;
  private int at;

  private Json(String file, String text) {
    this.file = file;
    this.text = text;
  }

  /**
   * The value that {@code bytes} hold: a {@link Map} in the order of the text, a {@link List}, a
   * {@link String}, a {@link BigDecimal}, a {@link Boolean} or null.
   *
   * @param file for messages
   * @throws RefusedException if they are not JSON in UTF-8
   */
  public static Object parse(String file, ByteBuffer bytes) {
    String text;
    try {
      text =
          StandardCharsets.UTF_8
              .newDecoder()
              .onMalformedInput(CodingErrorAction.REPORT)
              .onUnmappableCharacter(CodingErrorAction.REPORT)
              .decode(bytes.duplicate())
              .toString();
    } catch (CharacterCodingException e) {
      throw new RefusedException(file, "the JSON is not UTF-8", e);
    }
    Json json = new Json(file, text);
    json.skipSpace();
    Object value = json.value(0);
    json.skipSpace();
    if (json.at < text.length()) {
      throw json.refused("expected the end");
    }
    return value;
  }

  private Object value(int depth) {
    if (depth > DEEPEST) {
      throw refused("nested deeper than " + DEEPEST);
    }
    return switch (peek()) {
      case '{' -> object(depth);
      case '[' -> array(depth);
      case '"' -> string();
      case 't' -> word("true", Boolean.TRUE);
      case 'f' -> word("false", Boolean.FALSE);
      case 'n' -> word("null", null);
      default -> number();
    };
  }

  private Map<String, Object> object(int depth) {
    Map<String, Object> object = new LinkedHashMap<>();
    at++;
    skipSpace();
    if (peek() == '}') {
      at++;
      return object;
    }
    while (true) {
      if (peek() != '"') {
        throw refused("expected a key");
      }
      int start = at;
      String key = string();
      if (object.containsKey(key)) {
        at = start;
        throw refused("the key \"" + key + "\" is there twice");
      }
      skipSpace();
      expect(':');
      skipSpace();
      object.put(key, value(depth + 1));
      skipSpace();
      if (peek() == '}') {
        at++;
        return object;
      }
      expect(',');
      skipSpace();
    }
  }

  private List<Object> array(int depth) {
    List<Object> array = new ArrayList<>();
    at++;
    skipSpace();
    if (peek() == ']') {
      at++;
      return array;
    }
    while (true) {
      array.add(value(depth + 1));
      skipSpace();
      if (peek() == ']') {
        at++;
        return array;
      }
      expect(',');
      skipSpace();
    }
  }

  private String string() {
    StringBuilder string = new StringBuilder();
    at++;
    while (true) {
      char c = peek();
      if (c < 0x20) {
        throw refused("a control character in a string");
      }
      at++;
      if (c == '"') {
        return string.toString();
      }
      string.append(c == '\\' ? escaped() : c);
    }
  }

  private char escaped() {
    char c = peek();
    at++;
    switch (c) {
      case '"', '\\', '/':
        return c;
      case 'b':
        return '\b';
      case 'f':
        return '\f';
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'u':
        int code = 0;
        for (int i = 0; i < 4; i++) {
          int digit = Character.digit(peek(), 16);
          if (digit < 0 || peek() > 'f') {
            throw refused("expected four hexadecimal digits");
          }
          code = code * 16 + digit;
          at++;
        }
        return (char) code;
      default:
        at--;
        throw refused("no such escape");
    }
  }

  private Object word(String word, Object value) {
    if (!text.startsWith(word, at)) {
      throw refused("expected a value");
    }
    at += word.length();
    return value;
  }

  private BigDecimal number() {
    int start = at;
    if (peek() == '-') {
      at++;
    }
    if (peek() == '0') {
      at++;
    } else {
      digits();
    }
    if (at < text.length() && text.charAt(at) == '.') {
      at++;
      digits();
    }
    if (at < text.length() && (text.charAt(at) == 'e' || text.charAt(at) == 'E')) {
      at++;
      if (peek() == '+' || peek() == '-') {
        at++;
      }
      digits();
    }
    try {
      return new BigDecimal(text.substring(start, at));
    } catch (NumberFormatException e) {
      at = start;
      throw refused("a number of no reasonable size");
    }
  }

  private void digits() {
    int start = at;
    while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') {
      at++;
    }
    if (at == start) {
      throw refused("expected a value");
    }
  }

  private void expect(char c) {
    if (peek() != c) {
      throw refused("expected '" + c + "'");
    }
    at++;
  }

  private char peek() {
    if (at >= text.length()) {
      throw refused("the text ends too early");
    }
    return text.charAt(at);
  }

  private void skipSpace() {
    while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) {
      at++;
    }
  }

  private RefusedException refused(String problem) {
    return new RefusedException(
        file, "the JSON is broken at character %d: %s".formatted(at, problem));
  }
}
