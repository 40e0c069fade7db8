package io.github.reshard.checkpoint.torch;

import java.util.Optional;

/**
 * Element types. Those with a storage class of their own are pickled by {@code _rebuild_tensor_v2};
 * the others lie in a {@code torch.storage.UntypedStorage} and {@code _rebuild_tensor_v3} names the
 * type (PyTorch 2.6, {@code torch/storage.py}, {@code _dtype_to_storage_type_map} and {@code
 * _new_dtypes}).
 */
public enum DType {
  FLOAT32("float32", 4, "FloatStorage"),
  FLOAT64("float64", 8, "DoubleStorage"),
  FLOAT16("float16", 2, "HalfStorage"),
  BFLOAT16("bfloat16", 2, "BFloat16Storage"),
  INT64("int64", 8, "LongStorage"),
  INT32("int32", 4, "IntStorage"),
  INT16("int16", 2, "ShortStorage"),
  INT8("int8", 1, "CharStorage"),
  UINT8("uint8", 1, "ByteStorage"),
  BOOL("bool", 1, "BoolStorage"),
  COMPLEX64("complex64", 8, "ComplexFloatStorage"),
  COMPLEX128("complex128", 16, "ComplexDoubleStorage"),
  QINT8("qint8", 1, "QInt8Storage"),
  QUINT8("quint8", 1, "QUInt8Storage"),
  QINT32("qint32", 4, "QInt32Storage"),
  COMPLEX32("complex32", 4, null),
  UINT16("uint16", 2, null),
  UINT32("uint32", 4, null),
  UINT64("uint64", 8, null),
  FLOAT8_E4M3FN("float8_e4m3fn", 1, null),
  FLOAT8_E5M2("float8_e5m2", 1, null),
  FLOAT8_E4M3FNUZ("float8_e4m3fnuz", 1, null),
  FLOAT8_E5M2FNUZ("float8_e5m2fnuz", 1, null),
  FLOAT8_E8M0FNU("float8_e8m0fnu", 1, null),
  FLOAT4_E2M1FN_X2("float4_e2m1fn_x2", 1, null),
  BITS8("bits8", 1, null),
  BITS1X8("bits1x8", 1, null),
  BITS2X4("bits2x4", 1, null),
  BITS4X2("bits4x2", 1, null),
  BITS16("bits16", 2, null);

  private final String torchName;
  private final int bytes;
  private final String storageClass;

  DType(String torchName, int bytes, String storageClass) {
    this.torchName = torchName;
    this.bytes = bytes;
    this.storageClass = storageClass;
  }

  /** As PyTorch writes it after {@code torch.}, such as {@code float32}. */
  public String torchName() {
    return torchName;
  }

  /** Bytes per element. */
  public int bytes() {
    return bytes;
  }

  /** The class in module {@code torch} of a storage of this type; empty for types without one. */
  public Optional<String> storageClass() {
    return Optional.ofNullable(storageClass);
  }

  static Optional<DType> ofStorageClass(String name) {
    for (DType type : values()) {
      if (name.equals(type.storageClass)) {
        return Optional.of(type);
      }
    }
    return Optional.empty();
  }

  /** The type that PyTorch calls {@code torch.NAME}, if it is known. */
  public static Optional<DType> ofTorchName(String name) {
    for (DType type : values()) {
      if (name.equals(type.torchName)) {
        return Optional.of(type);
      }
    }
    return Optional.empty();
  }
}
