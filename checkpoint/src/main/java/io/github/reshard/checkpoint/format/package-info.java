/**
 * What writers of torch files share: a file as its template rewritten, and its skeleton around the
 * payloads.
 */
package io.github.reshard.checkpoint.format;
