/* A consumer that does nothing with its records: librdkafka as its users in C have it, so that a measurement is of the door and
 * not of what an interpreter does for each record. Built with cc when it is needed (drain.py), against the librdkafka that
 * confluent-kafka brings along; its public interface (rdkafka.h) is stable, and what is used of it is declared here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define AT_ONCE 10000
#define OFFSET_BEGINNING (-2)
#define TYPE_CONSUMER 1
#define PARTITION_EOF (-191)

typedef struct {
    int err;
    void *topic;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *own;
} message_t;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

#define LOOK_UP(result, name, arguments)                                          \
    result(*name) arguments = (result(*) arguments)dlsym(library, "rd_kafka_" #name); \
    if (name == NULL) {                                                           \
        snprintf(error, error_bytes, "librdkafka has no rd_kafka_" #name);        \
        return -1;                                                                \
    }

/* Reads `count` records of partition 0 from its beginning, within `timeout_s`. Gives the seconds from the first records to the
 * last; *first is how many came first, *bytes those of all values. Negative where it failed: `error` says why. `settings` are
 * pairs of names and values, the last name NULL. */
double drain(const char *path, const char **settings, const char *topic, int64_t count, double timeout_s, int64_t *first,
             int64_t *bytes, char *error, size_t error_bytes) {
    void *library = dlopen(path, RTLD_NOW);
    if (library == NULL) {
        snprintf(error, error_bytes, "%s", dlerror());
        return -1;
    }
    LOOK_UP(void *, conf_new, (void));
    LOOK_UP(int, conf_set, (void *, const char *, const char *, char *, size_t));
    LOOK_UP(void *, new, (int, void *, char *, size_t));
    LOOK_UP(void *, topic_partition_list_new, (int));
    LOOK_UP(void *, topic_partition_list_add, (void *, const char *, int32_t));
    LOOK_UP(int, topic_partition_list_set_offset, (void *, const char *, int32_t, int64_t));
    LOOK_UP(void, topic_partition_list_destroy, (void *));
    LOOK_UP(int, assign, (void *, void *));
    LOOK_UP(int, poll_set_consumer, (void *));
    LOOK_UP(void *, queue_get_consumer, (void *));
    LOOK_UP(void, queue_destroy, (void *));
    LOOK_UP(ssize_t, consume_batch_queue, (void *, int, message_t **, size_t));
    LOOK_UP(void, message_destroy, (message_t *));
    LOOK_UP(const char *, err2str, (int));
    LOOK_UP(int, consumer_close, (void *));
    LOOK_UP(void, destroy, (void *));

    void *conf = conf_new();
    for (; settings[0] != NULL; settings += 2)
        if (conf_set(conf, settings[0], settings[1], error, error_bytes) != 0)
            return -1;
    void *client = new (TYPE_CONSUMER, conf, error, error_bytes);
    if (client == NULL)
        return -1;
    poll_set_consumer(client);
    void *places = topic_partition_list_new(1);
    topic_partition_list_add(places, topic, 0);
    topic_partition_list_set_offset(places, topic, 0, OFFSET_BEGINNING);
    assign(client, places);
    topic_partition_list_destroy(places);

    static message_t *messages[AT_ONCE];
    void *queue = queue_get_consumer(client);
    double deadline = now() + timeout_s, began = 0, took = -1;
    int64_t read = 0;
    *first = *bytes = 0;
    while (read < count) {
        ssize_t got = consume_batch_queue(queue, 100, messages, AT_ONCE);
        for (ssize_t at = 0; at < got; at++) {
            if (messages[at]->err == 0) {
                read++;
                *bytes += (int64_t)messages[at]->len;
            } else if (messages[at]->err != PARTITION_EOF) {
                snprintf(error, error_bytes, "%s", err2str(messages[at]->err));
            }
            message_destroy(messages[at]);
        }
        if (began == 0 && read > 0) {
            began = now();
            *first = read;
        }
        if (now() > deadline)
            break;
    }
    if (read >= count)
        took = now() - began;
    else
        snprintf(error, error_bytes, "%lld of %lld records were read in %g s", (long long)read, (long long)count, timeout_s);
    queue_destroy(queue);
    consumer_close(client);
    destroy(client);
    return took;
}
