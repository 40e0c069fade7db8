/**
 * What a checkpoint of another trainer has to do with one of DeepSpeed's: it fills the files of
 * one, its template, and it is compared with one. This package knows no format of either.
 */
package io.github.reshard.checkpoint.template;
