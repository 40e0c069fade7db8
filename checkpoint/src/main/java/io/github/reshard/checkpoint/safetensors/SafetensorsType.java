package io.github.reshard.checkpoint.safetensors;

import io.github.reshard.checkpoint.torch.DType;
import java.util.Optional;

/**
 * The element types of safetensors that have a counterpart among PyTorch's types of whole bytes, in
 * the order in which the reference implementation declares them, which is by alignment
 * (huggingface/safetensors 0.8.0, safetensors/src/tensor.rs, {@code Dtype}).
 */
enum SafetensorsType {
  BOOL(DType.BOOL),
  U8(DType.UINT8),
  I8(DType.INT8),
  F8_E5M2(DType.FLOAT8_E5M2),
  F8_E4M3(DType.FLOAT8_E4M3FN),
  F8_E8M0(DType.FLOAT8_E8M0FNU),
  F8_E4M3FNUZ(DType.FLOAT8_E4M3FNUZ),
  F8_E5M2FNUZ(DType.FLOAT8_E5M2FNUZ),
  I16(DType.INT16),
  U16(DType.UINT16),
  F16(DType.FLOAT16),
  BF16(DType.BFLOAT16),
  I32(DType.INT32),
  U32(DType.UINT32),
  F32(DType.FLOAT32),
  C64(DType.COMPLEX64),
  F64(DType.FLOAT64),
  I64(DType.INT64),
  U64(DType.UINT64);

  private final DType dtype;

  SafetensorsType(DType dtype) {
    this.dtype = dtype;
  }

  DType dtype() {
    return dtype;
  }

  /** The type that a header calls {@code name}. */
  static Optional<SafetensorsType> named(String name) {
    for (SafetensorsType type : values()) {
      if (type.name().equals(name)) {
        return Optional.of(type);
      }
    }
    return Optional.empty();
  }

  /** The type of PyTorch's {@code dtype}; empty if safetensors has none for it. */
  static Optional<SafetensorsType> of(DType dtype) {
    for (SafetensorsType type : values()) {
      if (type.dtype == dtype) {
        return Optional.of(type);
      }
    }
    return Optional.empty();
  }
}
