package io.github.reshard.checkpoint.pickle;

/** A reference to something outside the pickle; in torch files, a storage. */
public final class PyPersistentId implements PyObject {
  private PyObject id;

  public PyPersistentId(PyObject id) {
    this.id = id;
  }

  public PyObject id() {
    return id;
  }

  public void setId(PyObject id) {
    this.id = id;
  }
}
