package io.github.reshard.checkpoint.state;

import java.util.List;

/**
 * How parameters lie where none is cut: each is a tensor of its own, in its C order and without
 * padding.
 *
 * @param parameters all of them; each is its own bucket
 */
public record WholeTensors(List<Parameter> parameters) implements ZeroLayout {
  public WholeTensors {
    parameters = List.copyOf(parameters);
  }

  @Override
  public int worldSize() {
    return 1;
  }

  @Override
  public int buckets() {
    return parameters.size();
  }

  @Override
  public int groupOf(int bucket) {
    return parameters.get(bucket).group();
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return rank == 0;
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return rank == 0 ? parameters.get(bucket).elements() : 0;
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    long elements = parameters.get(parameter).elements();
    return elements == 0 ? List.of() : List.of(new Extent(parameter, 0, 0, parameter, 0, elements));
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    return rank == 0 ? extentsOf(bucket) : List.of();
  }
}
