package io.github.reshard.checkpoint.state;

import java.util.ArrayList;
import java.util.List;

/**
 * Parameters that the stages of a pipeline divide among them before ZeRO does. A tied one is whole
 * on each stage that has it. Ranks are counted stage after stage; what a stage has may itself be
 * cut by tensor parallelism.
 */
public final class PipelineLayout extends JoinedLayout {
  private static final long serialVersionUID = 1L;

  private static final LocalTensor NOTHING = new LocalTensor(List.of(0L), List.of());

  /**
   * @param parameters of all stages, each once
   * @param stages the layouts, all of as many ranks
   * @param numbers for each stage, which of all its parameters are
   * @param groups the param group of each bucket
   */
  public PipelineLayout(
      List<Parameter> parameters,
      List<? extends ZeroLayout> stages,
      List<List<Integer>> numbers,
      List<Integer> groups) {
    super(
        stages.stream().mapToInt(ZeroLayout::worldSize).sum(),
        parameters,
        parts(stages, numbers),
        groups);
  }

  private static List<Part> parts(List<? extends ZeroLayout> stages, List<List<Integer>> numbers) {
    List<Part> parts = new ArrayList<>();
    int first = 0;
    for (int s = 0; s < stages.size(); s++) {
      parts.add(new Part(stages.get(s), numbers.get(s), first));
      first += stages.get(s).worldSize();
    }
    return parts;
  }

  @Override
  public int holders() {
    return parts().stream().mapToInt(part -> part.layout().holders()).sum();
  }

  @Override
  public int holderOf(int rank) {
    int before = 0;
    for (Part part : parts()) {
      if (rank < part.firstRank() + part.layout().worldSize()) {
        return before + part.layout().holderOf(rank - part.firstRank());
      }
      before += part.layout().holders();
    }
    throw new IllegalArgumentException("rank %d of %d".formatted(rank, worldSize()));
  }

  @Override
  public ZeroLayout ofHolder(int holder) {
    int before = 0;
    for (Part part : parts()) {
      if (holder < before + part.layout().holders()) {
        return part.layout().ofHolder(holder - before);
      }
      before += part.layout().holders();
    }
    throw new IllegalArgumentException("holder %d of %d".formatted(holder, holders()));
  }

  @Override
  public LocalTensor localTensor(int holder, int parameter) {
    int before = 0;
    for (int s = 0; s < parts().size(); s++) {
      ZeroLayout stage = parts().get(s).layout();
      if (holder < before + stage.holders()) {
        int own = indexIn(s, parameter);
        return own < 0 ? NOTHING : stage.localTensor(holder - before, own);
      }
      before += stage.holders();
    }
    throw new IllegalArgumentException("holder %d of %d".formatted(holder, holders()));
  }

  @Override
  public int copyOf(int holder, int parameter) {
    int before = 0;
    int copies = 0;
    for (int s = 0; s < parts().size(); s++) {
      ZeroLayout stage = parts().get(s).layout();
      int own = indexIn(s, parameter);
      if (holder < before + stage.holders()) {
        return own < 0 ? -1 : copies + stage.copyOf(holder - before, own);
      }
      if (own >= 0) {
        copies += copiesIn(stage, own);
      }
      before += stage.holders();
    }
    throw new IllegalArgumentException("holder %d of %d".formatted(holder, holders()));
  }

  private static int copiesIn(ZeroLayout stage, int parameter) {
    int copies = 0;
    for (int holder = 0; holder < stage.holders(); holder++) {
      copies = Math.max(copies, 1 + stage.copyOf(holder, parameter));
    }
    return copies;
  }
}
