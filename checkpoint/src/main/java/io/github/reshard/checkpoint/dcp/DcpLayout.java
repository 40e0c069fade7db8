package io.github.reshard.checkpoint.dcp;

import io.github.reshard.checkpoint.state.Box;
import io.github.reshard.checkpoint.state.Extent;
import io.github.reshard.checkpoint.state.LocalTensor;
import io.github.reshard.checkpoint.state.Parameter;
import io.github.reshard.checkpoint.state.ZeroLayout;
import java.util.Collections;
import java.util.List;
import java.util.stream.IntStream;

/**
 * How parameters lie in the chunks of a distributed checkpoint. Who saved a chunk does not matter:
 * the first chunk of each parameter is rank 0's here, the second rank 1's, and every parameter is a
 * bucket of its own.
 *
 * @param parameters all of them, in full shape
 * @param boxes for each the boxes of its chunks, which hold each element once
 */
public record DcpLayout(List<Parameter> parameters, List<List<Box>> boxes) implements ZeroLayout {
  public DcpLayout {
    parameters = List.copyOf(parameters);
    boxes = boxes.stream().map(List::copyOf).toList();
  }

  @Override
  public int worldSize() {
    return Math.max(1, boxes.stream().mapToInt(List::size).max().orElse(1));
  }

  @Override
  public int holders() {
    return worldSize();
  }

  @Override
  public int holderOf(int rank) {
    return rank;
  }

  @Override
  public LocalTensor localTensor(int holder, int parameter) {
    if (holder >= boxes.get(parameter).size()) {
      return new LocalTensor(List.of(0L), List.of());
    }
    Box box = boxes.get(parameter).get(holder);
    List<Long> origin = Collections.nCopies(box.dimensions(), 0L);
    return new LocalTensor(box.sizes(), List.of(new LocalTensor.Block(box, origin)));
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
    return rank < boxes.get(bucket).size();
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return holds(rank, bucket) ? boxes.get(bucket).get(rank).elements() : 0;
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    return IntStream.range(0, boxes.get(parameter).size())
        .mapToObj(
            chunk ->
                new Extent(
                    parameter, 0, chunk, parameter, 0, boxes.get(parameter).get(chunk).elements()))
        .toList();
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    return holds(rank, bucket)
        ? List.of(new Extent(bucket, 0, rank, bucket, 0, elementsIn(rank, bucket)))
        : List.of();
  }
}
