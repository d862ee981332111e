// A service that knows nothing of the mesh: it calls another one for each request, directly or through what keeps jobs in
// order. Traced where it is run with `--require @opentelemetry/auto-instrumentations-node/register`.
'use strict';

const http = require('node:http');
const { setTimeout: sleep } = require('node:timers/promises');
const Bottleneck = require('bottleneck');
const DataLoader = require('dataloader');
const PQueue = require('p-queue').default;
const async_ = require('async');
const fastq = require('fastq');
const pLimit = require('p-limit');

const OUT = process.env.OUT;

// Shares the process's one pool of connections.
async function call(kind, user) {
  const answer = await fetch(`${OUT}/${kind}/${user}`, { headers: { 'x-sent-at': String(process.hrtime.bigint()) } });
  return { status: answer.status, text: await answer.text() };
}

// Each runs a job, two at a time.
const limiters = {
  'p-limit 3.1.0': pLimit(2),
  'p-queue 6.6.2': ((queue) => (job) => queue.add(job))(new PQueue({ concurrency: 2 })),
  'bottleneck 2.19.5': ((queue) => (job) => queue.schedule(job))(new Bottleneck({ maxConcurrent: 2 })),
  'async 3.2.6': ((queue) => (job) => queue.pushAsync(job))(async_.queue(async (job) => job(), 2)),
  'fastq 1.20.3': ((queue) => (job) => queue.push(job))(fastq.promise(async (job) => job(), 2)),
};
const modern = (async () => {
  limiters['p-limit 7.3.3'] = (await import('p-limit-now')).default(2);
  limiters['p-queue 10.0.0'] = ((queue) => (job) => queue.add(job))(
    new (await import('p-queue-now')).default({ concurrency: 2 }),
  );
})();

// One call for all who ask within 20 ms.
const loader = new DataLoader(
  async (users) => {
    const called = await call('batch', users[0]);
    return users.map(() => called);
  },
  { cache: false, batchScheduleFn: (run) => setTimeout(run, 20) },
);

// One call for all who ask while it is under way.
let flight;
function singleFlight(user) {
  flight ??= call('flight', user).finally(() => (flight = undefined));
  return flight;
}

// A worker that the first request starts, and that serves all later ones.
const jobs = [];
let working = false;
function lazyWorker(user) {
  return new Promise((done) => {
    jobs.push({ user, done });
    if (working) return;
    working = true;
    (async () => {
      for (;;) {
        const job = jobs.shift();
        if (job) job.done(await call('worker', job.user));
        else await sleep(2);
      }
    })();
  });
}

const routes = {
  '/direct': async (user, query) => {
    await sleep(Math.random() * Number(query.get('delay') ?? 0));
    return call('direct', user);
  },
  '/later': async (user, query) => {
    setTimeout(() => call('later', user).catch(() => {}), 1000 * Number(query.get('after') ?? 0.3));
    return { status: 200, text: JSON.stringify({ later: user }) };
  },
  '/limiter': async (user, query) => limiters[query.get('name')](() => call('limiter', user)),
  '/batch': (user) => loader.load(user),
  '/flight': (user) => singleFlight(user),
  '/worker': (user) => lazyWorker(user),
  '/ready': async () => ({ status: 200, text: 'ready' }),
};
routes['/anon/direct'] = routes['/direct'];

http
  .createServer(async (request, response) => {
    const url = new URL(request.url, 'http://app');
    try {
      const { status, text } = await routes[url.pathname](url.searchParams.get('user'), url.searchParams);
      response.writeHead(status, { 'content-type': 'application/json' }).end(text);
    } catch (error) {
      response.writeHead(500).end(String(error));
    }
  })
  .listen(Number(process.env.PORT), '127.0.0.1');
modern.catch((error) => {
  console.error(error);
  process.exit(1);
});
