package io.github.reshard.checkpoint.state;

import java.io.Serializable;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Layouts that have some of the parameters each, as one layout of them all. */
public abstract class JoinedLayout implements ZeroLayout {
  private static final long serialVersionUID = 1L;

  /**
   * One of the layouts.
   *
   * @param layout of its parameters, which may have other names there
   * @param parameters for each of them, which one of all it is
   * @param firstRank which of all ranks its rank 0 is
   */
  public record Part(ZeroLayout layout, List<Integer> parameters, int firstRank)
      implements Serializable {
    public Part {
      parameters = List.copyOf(parameters);
      if (parameters.size() != layout.parameters().size()) {
        throw new IllegalArgumentException(
            "%d parameters of %d are numbered"
                .formatted(parameters.size(), layout.parameters().size()));
      }
    }
  }

  private final int worldSize;
  private final List<Parameter> parameters;
  private final List<Part> parts;
  private final List<Integer> groups;
  private final List<Map<Integer, Integer>> indices = new ArrayList<>();

  /**
   * @param worldSize all ranks
   * @param parameters all parameters
   * @param parts the layouts
   * @param groups the param group of each bucket, as {@code parameters} number them
   * @throws IllegalArgumentException if a parameter is in no part, or is of another shape there
   */
  JoinedLayout(int worldSize, List<Parameter> parameters, List<Part> parts, List<Integer> groups) {
    this.worldSize = worldSize;
    this.parameters = List.copyOf(parameters);
    this.parts = List.copyOf(parts);
    this.groups = List.copyOf(groups);
    for (Part part : parts) {
      Map<Integer, Integer> own = new HashMap<>();
      for (int p = 0; p < part.parameters().size(); p++) {
        if (own.put(part.parameters().get(p), p) != null) {
          throw new IllegalArgumentException(
              parameters.get(part.parameters().get(p)).name() + " is there twice in a part");
        }
      }
      indices.add(own);
    }
    for (int p = 0; p < parameters.size(); p++) {
      int parameter = p;
      if (indices.stream().noneMatch(own -> own.containsKey(parameter))) {
        throw new IllegalArgumentException(parameters.get(p).name() + " is in no part");
      }
    }
  }

  /** The parts, in order. */
  public List<Part> parts() {
    return parts;
  }

  @Override
  public ZeroLayout ofHolder(int part) {
    return parts.get(part).layout();
  }

  /** The index that {@code parameter} has in a part, or -1. */
  final int indexIn(int part, int parameter) {
    return indices.get(part).getOrDefault(parameter, -1);
  }

  @Override
  public int worldSize() {
    return worldSize;
  }

  @Override
  public List<Parameter> parameters() {
    return parameters;
  }

  @Override
  public int buckets() {
    return groups.size();
  }

  @Override
  public int groupOf(int bucket) {
    return groups.get(bucket);
  }

  private static boolean has(Part part, int rank, int bucket) {
    int own = rank - part.firstRank();
    return own >= 0
        && own < part.layout().worldSize()
        && bucket < part.layout().buckets()
        && part.layout().holds(own, bucket);
  }

  @Override
  public boolean holds(int rank, int bucket) {
    return parts.stream().anyMatch(part -> has(part, rank, bucket));
  }

  @Override
  public long elementsIn(int rank, int bucket) {
    return parts.stream()
        .filter(part -> has(part, rank, bucket))
        .mapToLong(part -> part.layout().elementsIn(rank - part.firstRank(), bucket))
        .sum();
  }

  @Override
  public List<Extent> extentsOf(int parameter) {
    List<Extent> extents = new ArrayList<>();
    for (int i = 0; i < parts.size(); i++) {
      int own = indexIn(i, parameter);
      if (own >= 0) {
        Part part = parts.get(i);
        part.layout().extentsOf(own).forEach(extent -> extents.add(of(part, extent)));
      }
    }
    return extents;
  }

  @Override
  public List<Extent> extentsIn(int rank, int bucket) {
    return parts.stream()
        .filter(part -> has(part, rank, bucket))
        .flatMap(
            part ->
                part.layout().extentsIn(rank - part.firstRank(), bucket).stream()
                    .map(extent -> of(part, extent)))
        .toList();
  }

  private static Extent of(Part part, Extent extent) {
    return new Extent(
        part.parameters().get(extent.parameter()),
        extent.parameterStart(),
        part.firstRank() + extent.rank(),
        extent.bucket(),
        extent.bucketStart(),
        extent.elements());
  }
}
