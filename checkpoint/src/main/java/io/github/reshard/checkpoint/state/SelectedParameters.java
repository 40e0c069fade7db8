package io.github.reshard.checkpoint.state;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Another layout without some of its parameters: what lies in their place is of no interest. */
public final class SelectedParameters implements ZeroLayout {
  private static final long serialVersionUID = 1L;

  private final ZeroLayout of;
  private final List<Integer> selected;
  private final List<Parameter> parameters;
  private final Map<Integer, Integer> indices = new HashMap<>();

  /**
   * @param of the layout of all parameters
   * @param selected which of them are there, by their index in {@code of}
   */
  public SelectedParameters(ZeroLayout of, List<Integer> selected) {
    this.of = of;
    this.selected = List.copyOf(selected);
    this.parameters = selected.stream().map(of.parameters()::get).toList();
    for (int p = 0; p < selected.size(); p++) {
      indices.put(selected.get(p), p);
    }
  }

  @Override
  public int holders() {
    return of.holders();
  }

  @Override
  public int holderOf(int rank) {
    return of.holderOf(rank);
  }

  @Override
  public LocalTensor localTensor(int holder, int parameter) {
    return of.localTensor(holder, selected.get(parameter));
  }

  @Override
  public int copyOf(int holder, int parameter) {
    return of.copyOf(holder, selected.get(parameter));
  }

  @Override
  public int worldSize() {
    return of.worldSize();
  }

  @Override
  public List<Parameter> parameters() {
    return parameters;
  }

  @Override
  public int buckets() {
    return of.buckets();
  }

  @Override
  public int groupOf(int bucket) {
    return of.groupOf(bucket);
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return of.holds(rank, bucket);
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return of.elementsIn(rank, bucket);
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    return numbered(of.extentsOf(selected.get(parameter)));
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    return numbered(of.extentsIn(rank, bucket));
  }

  private List<Extent> numbered(List<Extent> extents) {
    List<Extent> numbered = new ArrayList<>();
    for (Extent e : extents) {
      Integer parameter = indices.get(e.parameter());
      if (parameter != null) {
        numbered.add(
            new Extent(
                parameter,
                e.parameterStart(),
                e.rank(),
                e.bucket(),
                e.bucketStart(),
                e.elements()));
      }
    }
    return numbered;
  }
}
