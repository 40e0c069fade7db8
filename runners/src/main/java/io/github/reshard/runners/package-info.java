/** The command people type: arguments, progress, exit codes, and what each Beam runner needs. */
package io.github.reshard.runners;
