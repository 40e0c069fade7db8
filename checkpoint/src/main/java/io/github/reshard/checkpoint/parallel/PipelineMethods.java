package io.github.reshard.checkpoint.parallel;

import java.util.List;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/** What {@code --pipelineParts} and {@code --pipelineMethod} mean. */
public final class PipelineMethods {
  private PipelineMethods() {}

  /**
   * {@code --pipelineParts}: the first layer of each stage, and the number of layers.
   *
   * @throws IllegalArgumentException if it is none
   */
  public static PipelineLayers.Method parts(String text) {
    if (!Pattern.matches("\\d{1,6}(,\\d{1,6})+", text)) {
      throw new IllegalArgumentException(
          "--pipelineParts has the first layer of each stage and the number of layers, such as"
              + " 0,5,10; found "
              + text);
    }
    StageBounds bounds =
        new StageBounds(Pattern.compile(",").splitAsStream(text).map(Integer::valueOf).toList());
    return new PipelineLayers.Method() {
      @Override
      public String name() {
        return "--pipelineParts=" + text;
      }

      @Override
      public boolean fits(int layers) {
        return bounds.layers() == layers;
      }

      @Override
      public boolean isChecked() {
        return false;
      }

      @Override
      public StageBounds bounds(List<Long> weights, PipelineScript script, int stages) {
        if (bounds.stages() != stages) {
          throw new IllegalArgumentException(
              "--pipelineParts=%s are %d stages, --targetPipelineParallelSize is %d"
                  .formatted(text, bounds.stages(), stages));
        }
        return bounds;
      }
    };
  }

  /**
   * {@code --pipelineMethod}: the {@code partition_method} of the script.
   *
   * @throws IllegalArgumentException if there is none of that name
   */
  public static PipelineLayers.Method of(String method) {
    if (method.startsWith("type:")) {
      try {
        Pattern unused = Pattern.compile(method.substring("type:".length()));
      } catch (PatternSyntaxException e) {
        throw new IllegalArgumentException("--pipelineMethod=" + method + ": " + e.getMessage(), e);
      }
    } else if (!method.equals("uniform") && !method.equals("parameters")) {
      throw new IllegalArgumentException(
          "--pipelineMethod is parameters, uniform or type:REGEX, not " + method);
    }
    return new PipelineLayers.Method() {
      @Override
      public String name() {
        return "--pipelineMethod=" + method;
      }

      @Override
      public boolean fits(int layers) {
        return true;
      }

      @Override
      public boolean isChecked() {
        return true;
      }

      @Override
      public StageBounds bounds(List<Long> weights, PipelineScript script, int stages) {
        if (method.equals("uniform")) {
          return StageBounds.uniform(weights.size(), stages);
        }
        if (method.equals("parameters")) {
          return StageBounds.balanced(weights, stages);
        }
        if (!script.isWhole()) {
          throw new IllegalArgumentException(
              "--pipelineMethod=%s asks for the classes of the layers, which a checkpoint does not say. List them with --pipelineLayers, as DeepSpeed prints them at the start: --pipelineLayers=Embedding,Block*24,lambda"
                  .formatted(method));
        }
        return StageBounds.ofType(script.layers(), method.split(":", -1)[1], stages);
      }
    };
  }
}
