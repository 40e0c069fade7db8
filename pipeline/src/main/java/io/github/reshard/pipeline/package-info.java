/** The Beam graphs that make the jobs, the options they take and what they report. */
package io.github.reshard.pipeline;
