package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.pickle.PyGlobal;

/**
 * The names that {@code .metadata} is made of (PyTorch 2.6 and 2.9,
 * torch/distributed/checkpoint/metadata.py and filesystem.py).
 */
final class Names {
  private Names() {}

  static final String METADATA_MODULE = "torch.distributed.checkpoint.metadata";
  static final String FILES_MODULE = "torch.distributed.checkpoint.filesystem";
  static final String SERIALIZATION_MODULE = "torch.serialization";
  static final String TORCH = "torch";

  static final String METADATA = "Metadata";
  static final String TENSOR = "TensorStorageMetadata";
  static final String BYTES = "BytesStorageMetadata";
  static final String PROPERTIES = "TensorProperties";
  static final String CHUNK = "ChunkStorageMetadata";
  static final String INDEX = "MetadataIndex";
  static final String MEMORY_FORMAT = "_MEM_FORMAT_ENCODING";
  static final String STORAGE_META_CLASS = "StorageMeta";
  static final String STORAGE_INFO = "_StorageInfo";
  static final String SIZE = "Size";
  static final String LAYOUT = "_get_layout";
  static final String STRIDED = "torch.strided";

  static final String STATE_DICT_METADATA = "state_dict_metadata";
  static final String PLANNER_DATA = "planner_data";
  static final String STORAGE_DATA = "storage_data";
  static final String STORAGE_META = "storage_meta";
  static final String SAVE_ID = "save_id";
  static final String VERSION = "version";
  static final String PROPERTIES_FIELD = "properties";
  static final String SIZE_FIELD = "size";
  static final String CHUNKS_FIELD = "chunks";
  static final String OFFSETS = "offsets";
  static final String SIZES = "sizes";
  static final String FQN = "fqn";
  static final String OFFSET = "offset";
  static final String INDEX_FIELD = "index";
  static final String PATH = "relative_path";
  static final String LENGTH = "length";
  static final String TRANSFORMS = "transform_descriptors";

  /** {@code torch.contiguous_format} as {@code _MEM_FORMAT_ENCODING} numbers it. */
  static final long CONTIGUOUS = 0;

  /** The state of {@code TensorProperties}; PyTorch 2.10 and later add one, which 2.6 refuses. */
  static final int PROPERTIES_ITEMS = 5;

  static PyGlobal metadata(String name) {
    return new PyGlobal(METADATA_MODULE, name);
  }
}
